"""`bundle`, `verify` and `optimize --bundle` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result

from onnxopt.cli.bundle_options import _without_folder
from onnxopt.cli.group import cli
from onnxopt.core.errors import OnnxOptError

_MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y) {
    a = Identity(x)
    y = Relu(a)
}
"""

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(_MODEL), path)
    return path


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return invoke


def test_result_is_bundled_and_verifies(model: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    made = run("optimize", model, "--bundle", folder, "--bundle-seconds", 0.2, "--json")
    assert made.exit_code == 0, made.output
    record = json.loads(made.stdout)["bundle"]
    assert record["timing"]["ratio"]["rounds"] > 0
    assert record["command"][0] == "onnxopt"
    assert not model.with_name("model.opt.onnx").exists()
    verified = run("verify", folder)
    assert verified.exit_code == 0
    assert verified.stdout.rstrip().endswith("verified")


def test_exit_code_is_3_when_a_file_is_not_what_it_was(
    model: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "model.bundle"
    assert run("bundle", model, "--bundle-seconds", 0).exit_code == 0
    (folder / "README.md").write_text("other")
    result = run("verify", folder, "-q")
    assert result.exit_code == 3
    assert "README.md has 5 bytes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tune-session",), "--tune-session is for bundles: give --bundle DIR"),
        (("--zip",), "--zip is for bundles"),
        (("--bundle", "b", "-o", "x.onnx"), "takes the place of -o"),
    ],
)
def test_options_are_refused_when_they_do_not_fit(
    model: Path, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    result = run("optimize", model, *arguments)
    assert isinstance(result.exception, OnnxOptError)
    assert message in str(result.exception)


def test_record_tells_no_folders(
    model: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((2, 4), np.float32))
    arguments = ["optimize", str(model), f"--inputs={tmp_path / 'data.npz'}", "--bundle-seconds"]
    arguments += ["0.1", "--bundle", str(tmp_path / "dist"), "--opset", "19"]
    monkeypatch.setattr("sys.argv", ["onnxopt", *arguments])
    assert run(*arguments).exit_code == 0
    texts = [(tmp_path / "dist" / name).read_text() for name in ("bundle.json", "README.md")]
    assert not any(str(tmp_path) in text for text in texts)
    command = json.loads(texts[0])["command"]
    assert command[:3] == ["onnxopt", "optimize", "model.onnx"]
    assert {"--inputs=data.npz", "dist", "19"} <= {*command}


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("/home/me/m.onnx", "m.onnx"),
        ("-o/home/me/out", "-oout"),
        ("-o=/home/me/out/", "-o=out"),
        ("x=/home/me/x.npy", "x=x.npy"),
        ("--inputs=x=/home/a,b=c/x.npy", "--inputs=x=x.npy"),
        ("--inputs=/home/me/code.py:make", "--inputs=code.py:make"),
        (r"C:\Users\me\m.onnx", "m.onnx"),
        ("a/m.onnx", "a/m.onnx"),
        ("mean=0.4/0.5/0.6,layout=nchw", "mean=0.4/0.5/0.6,layout=nchw"),
        ("x:1,3,224,224", "x:1,3,224,224"),
        ("--opset", "--opset"),
    ],
)
def test_absolute_paths_are_recorded_by_their_last_part(given: str, recorded: str) -> None:
    assert _without_folder(given) == recorded


def test_archive_is_named_when_one_is_written(model: Path, run: Run, tmp_path: Path) -> None:
    made = run("bundle", model, "-o", tmp_path / "dist", "--bundle-seconds", 0, "--zip")
    assert made.stdout.splitlines()[-2:] == [
        f"wrote {tmp_path / 'dist'}", f"wrote {tmp_path / 'dist.zip'}"
    ]  # fmt: skip
    assert run("verify", tmp_path / "dist.zip").exit_code == 0


def test_names_from_records_and_models_are_escaped(run: Run, tmp_path: Path) -> None:
    text = _MODEL.replace("] y)", "] ynasty)").replace("y = Relu", "ynasty = Relu")
    model = onnx.parser.parse_model(text)
    data = model.SerializeToString().replace(b"ynasty", b"y\x1b[2J\x07")
    (tmp_path / "model.onnx").write_bytes(data)
    assert run("bundle", tmp_path / "model.onnx", "--bundle-seconds", 0).exit_code == 0
    folder = tmp_path / "model.bundle"
    (folder / "\x1b[2J").write_text("")
    record = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(record.replace('"notes":', '"\\u001b[2J": 1, "notes":'))
    for arguments in (
        ("verify", folder),
        ("inspect", "-v", tmp_path / "model.onnx"),
        ("compare", "-v", tmp_path / "model.onnx", tmp_path / "model.onnx"),
        ("optimize", "-v", tmp_path / "model.onnx"),
    ):
        result = run(*arguments)
        assert "\x1b" not in result.output
        assert "\\x1b[2J" in result.output or arguments[0] == "optimize"

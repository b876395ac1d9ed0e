"""`onnxopt recover`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.rewriting import parse_model

from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, MissingDependencyError
from onnxopt.graph.saving import save_model

Recover = Callable[..., Result]


@pytest.fixture
def recover(tmp_path: Path) -> Recover:
    """Runs the command on a model that differs from the original in one weight."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 3)).astype(np.float32)
    text = "g (float[N, 8] x) => (float[N, 3] y) { h = MatMul(x, w) y = Relu(h) }"
    for name, array in (("original", weight), ("student", weight * np.float32(0.7))):
        save_model(parse_model(text, {"w": array}), tmp_path / f"{name}.onnx")
    save_model(
        parse_model("g (float[N, 8] x) => (float[N, 8] y) { y = Hardmax(x) }"),
        tmp_path / "strange.onnx",
    )
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((80, 8)).astype(np.float32))

    def invoke(name: str, *arguments: str) -> Result:
        paths = [str(tmp_path / name), "--original", str(tmp_path / "original.onnx")]
        return CliRunner().invoke(cli, ["recover", *paths, *arguments])

    return invoke


def test_command_trains_and_writes_reports(recover: Recover, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data, page = str(tmp_path / "data.npz"), tmp_path / "report.html"
    options = ("--calibration", data, "--epochs", "3", "--learning-rate", "0.01")
    result = recover("student.onnx", *options, "--json", "--html", str(page))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["after"] < report["before"]
    assert Path(report["output"]) == tmp_path / "student.recovered.onnx"
    assert "epoch 3" in page.read_text(encoding="utf-8")
    told = recover("student.onnx", *options, "-v").stdout
    assert "24 parameters trained" in told
    assert "epoch 2: " in told


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("student.onnx", (), "--calibration"),
        ("strange.onnx", ("--calibration", "data.npz"), "no PyTorch counterpart of Hardmax"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    recover: Recover,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    result = recover(name, *arguments)
    assert isinstance(result.exception, InvalidInputError)
    assert message in str(result.exception)
    assert not list(tmp_path.glob("*.recovered.onnx"))


def test_missing_pytorch_is_named_with_what_installs_it(
    recover: Recover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = recover("student.onnx", "--calibration", str(tmp_path / "data.npz"))
    assert isinstance(result.exception, MissingDependencyError)
    assert "pip install" in str(result.exception)

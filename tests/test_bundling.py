"""Bundles: what is made verifies elsewhere, and whatever is changed is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model

import onnxopt
from onnxopt.core.errors import InvalidInputError, InvalidModelError, ParityError, SaveError
from onnxopt.runtime import load_bundle
from onnxopt.runtime.bundles.seals import make_seals

_OPTIONS = onnxopt.BundleOptions(seconds=0)
_TEXT = """
g (float[batch,8] x) => (float[batch,8] y) {
  a = Identity (x)
  b = MatMul (a, w)
  y = Relu (b)
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    ir.save(parse_model(_TEXT, {"w": weight}), path)
    return path


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    onnxopt.optimize_to_bundle(model, folder, options=_OPTIONS)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_bundle_verifies_when_it_is_elsewhere(copy: Path) -> None:
    found = onnxopt.verify(copy)
    assert found.passed, found.to_text()
    assert [check.outcome for check in found.checks] == ["passed"] * 4
    session = load_bundle(copy)
    assert session.run(None, {"x": np.ones((3, 8), np.float32)})[0].shape == (3, 8)


def test_record_says_how_it_was_made(copy: Path, model: Path) -> None:
    record = json.loads((copy / "bundle.json").read_text())
    assert record["source"]["name"] == model.name
    assert "remove-identities" in record["passes"]
    assert record["parity"]["status"] == "passed"
    assert record["environment"]["versions"]["onnx"]
    assert len(record["samples"]) == 3
    readme = (copy / "README.md").read_text()
    assert "ort.InferenceSession(" in readme
    assert "Ort::Session session(" in readme


def test_python_of_the_readme_runs(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (copy / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    assert "'x': ..." in code
    code = code.replace("...", "numpy.ones((2, 8), numpy.float32)")
    monkeypatch.chdir(copy)
    subprocess.run(
        [sys.executable, "-c", f"import numpy\n{code}\nassert outputs[0].shape == (2, 8)"],
        check=True,
    )


def test_model_bytes_are_the_same_when_made_again(made: Path, model: Path, tmp_path: Path) -> None:
    onnxopt.optimize_to_bundle(model, tmp_path / "again", options=_OPTIONS)
    for name in ("model.onnx", "samples/0.inputs.npz", "samples/0.outputs.npz"):
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _change_option(folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_text(path.read_text().replace('"spinning": true', '"spinning": false'))


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda f: _flip_byte(f / "model.onnx"), "model.onnx was changed"),
        (lambda f: _flip_byte(f / "samples/1.outputs.npz"), "samples/1.outputs.npz was changed"),
        (lambda f: (f / "samples/0.inputs.npz").unlink(), "samples/0.inputs.npz is missing"),
        (lambda f: (f / "model.onnx").write_bytes(b""), "model.onnx has 0 bytes, not"),
        (_change_option, "session.spinning was changed"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], object], finding: str) -> None:
    damage(copy)
    found = onnxopt.verify(copy)
    assert not found.passed
    assert found.exit_code == 3
    assert finding in found.to_text()
    with pytest.raises((InvalidModelError, InvalidInputError)):
        load_bundle(copy)


def test_sample_fails_when_the_model_computes_something_else(copy: Path) -> None:
    """A record that was made to fit another model: only running it finds out."""
    from onnxopt.runtime.bundles.manifest import (
        MANIFEST,
        Manifest,
        hash_file,
        read_manifest,
        write_manifest,
    )

    weight = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    ir.save(parse_model(_TEXT, {"w": weight}), copy / "model.onnx")
    old = read_manifest(copy)
    files = {name: hash_file(copy / name) for name in old.files}
    write_manifest(
        Manifest(
            model=old.model,
            files=files,
            session=old.session,
            samples=old.samples,
            tolerances=old.tolerances,
            facts=old.facts,
        ),
        copy / MANIFEST,
    )
    found = onnxopt.verify(copy)
    assert found.checks[-1].outcome == "failed"
    assert "output 'y': relative error" in found.checks[-1].findings[0]


def test_bundle_fails_when_the_model_reads_a_file_that_is_not_in_the_record(
    model: Path, tmp_path: Path
) -> None:
    from onnxopt.runtime.bundles.manifest import MANIFEST, read_manifest, write_manifest

    loaded = onnxopt.load(model)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "net.onnx"
    ir.save(loaded, source, external_data="weights.bin", size_threshold_bytes=1)
    onnxopt.bundle(source, tmp_path / "b", options=_OPTIONS)
    manifest = read_manifest(tmp_path / "b")
    files = {name: entry for name, entry in manifest.files.items() if name != "weights.bin"}
    write_manifest(dataclasses.replace(manifest, files=files), tmp_path / "b" / MANIFEST)
    found = onnxopt.verify(tmp_path / "b")
    assert not found.passed
    assert "the model reads weights.bin, which is not in the record" in found.to_text()


def test_file_is_mentioned_when_it_does_not_belong(copy: Path) -> None:
    (copy / "extra.bin").write_bytes(b"x")
    found = onnxopt.verify(copy)
    assert found.passed
    assert "extra.bin is not part of the bundle" in found.warnings


def test_model_is_bundled_as_it_is_with_its_data(tmp_path: Path) -> None:
    weight = np.ones((8, 8), np.float32)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "net.onnx"
    ir.save(
        parse_model(_TEXT, {"w": weight}),
        source,
        external_data="weights.bin",
        size_threshold_bytes=1,
    )
    made = onnxopt.bundle(source, tmp_path / "out", original=source, options=_OPTIONS)
    assert (tmp_path / "out/model.onnx").read_bytes() == source.read_bytes()
    assert "weights.bin" in made.manifest.files
    (tmp_path / "in/weights.bin").unlink()
    assert onnxopt.verify(tmp_path / "out").passed


def test_nothing_is_made_when_the_model_is_not_at_parity(model: Path, tmp_path: Path) -> None:
    weight = np.ones((8, 8), np.float32)
    ir.save(parse_model(_TEXT, {"w": weight}), tmp_path / "other.onnx")
    with pytest.raises(ParityError, match=r"not at parity with .*--max-error"):
        onnxopt.bundle(tmp_path / "other.onnx", tmp_path / "b", original=model, options=_OPTIONS)
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.glob(".onnxopt*")) == []


def test_error_is_recorded_when_it_is_allowed(model: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    ir.save(parse_model(_TEXT, {"w": weight * 1.01}), tmp_path / "other.onnx")
    options = onnxopt.BundleOptions(seconds=0, max_error=0.02)
    made = onnxopt.bundle(tmp_path / "other.onnx", tmp_path / "b", original=model, options=options)
    assert "(0.02 allowed)" in made.manifest.facts["parity"]["summary"]


def test_folder_is_refused_when_something_else_is_in_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SaveError, match="is not empty"):
        onnxopt.bundle(model, tmp_path, options=_OPTIONS)


def test_archive_verifies_and_is_the_same_each_time(model: Path, tmp_path: Path) -> None:
    options = onnxopt.BundleOptions(seconds=0, archive=True)
    onnxopt.bundle(model, tmp_path / "b", options=options)
    assert onnxopt.verify(tmp_path / "b.zip").passed
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt"])
def test_archive_is_refused_when_a_member_leads_outside(
    made: Path, tmp_path: Path, name: str
) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(made / "bundle.json", "bundle.json")
        archive.writestr(name, "evil")
    with pytest.raises(InvalidInputError, match="outside the bundle"):
        onnxopt.verify(tmp_path / "b.zip")
    assert not (tmp_path / "evil.txt").exists()


def test_archive_is_refused_when_a_member_is_larger_than_recorded(
    made: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(made / "bundle.json", "bundle.json")
        archive.writestr("model.onnx", b"\0" * (1 << 24))
    with pytest.raises(InvalidInputError, match="larger than its record says"):
        onnxopt.verify(tmp_path / "b.zip")


def test_archive_verifies_when_another_tool_packed_it(made: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "b"), "zip", made)  # with entries for the folders
    assert onnxopt.verify(tmp_path / "b.zip").passed


def test_archive_of_somebody_else_is_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"theirs")
    options = dataclasses.replace(_OPTIONS, archive=True)
    with pytest.raises(SaveError, match="exists"):
        onnxopt.bundle(model, tmp_path / "b", options=options)
    assert (tmp_path / "b.zip").read_bytes() == b"theirs"
    assert not (tmp_path / "b").exists()


def test_data_is_refused_when_it_has_a_name_that_bundles_use(tmp_path: Path) -> None:
    weight = np.ones((8, 8), np.float32)
    ir.save(
        parse_model(_TEXT, {"w": weight}),
        tmp_path / "net.onnx",
        external_data="README.md",
        size_threshold_bytes=0,
    )
    with pytest.raises(InvalidInputError, match=r"README\.md"):
        onnxopt.bundle(tmp_path / "net.onnx", tmp_path / "b", options=_OPTIONS)
    assert not (tmp_path / "b").exists()


def test_tolerance_is_refused_when_it_is_no_number(copy: Path) -> None:
    record = json.loads((copy / "bundle.json").read_text())
    record["tolerances"]["y"]["relative"] = "much"
    del record["seals"]
    record["seals"] = make_seals(record)
    (copy / "bundle.json").write_text(json.dumps(record))
    found = onnxopt.verify(copy)
    assert not found.passed
    assert "is damaged" in found.to_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "it is no table"),
        ('{"format": 99}', "format 99 is not 1"),
        ("[" * 100_000, "is damaged"),
        ('{"format": 1, "files": {"../x": {}}, "model": "../x"}', "outside the bundle"),
    ],
)
def test_record_is_refused_when_it_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        onnxopt.verify(tmp_path)


@pytest.mark.slow
def test_old_bundle_or_none_is_left_when_killed(model: Path, tmp_path: Path) -> None:
    """Kill -9 at 20 moments of a run that replaces a bundle."""
    target = tmp_path / "b"
    onnxopt.optimize_to_bundle(model, target, options=_OPTIONS)
    code = (
        "import sys, onnxopt; onnxopt.optimize_to_bundle(sys.argv[1], sys.argv[2], "
        "options=onnxopt.BundleOptions(seconds=0.1, overwrite=True))"
    )
    command = [sys.executable, "-c", code, str(model), str(target)]
    start = time.monotonic()
    subprocess.run(command, check=True)
    whole = time.monotonic() - start
    for moment in np.random.default_rng(0).uniform(0, whole, 20):
        process = subprocess.Popen(command)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if target.exists():
            assert onnxopt.verify(target).passed
    subprocess.run(command, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]  # nothing is left of all of them
    assert onnxopt.verify(target).passed

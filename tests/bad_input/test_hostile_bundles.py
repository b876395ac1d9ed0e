"""Hostile bundles: whatever record or archive say, `verify` ends in a line or a verdict."""

from __future__ import annotations

import copy
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import OnnxOptError
from onnxopt.runtime.bundles import verifying
from onnxopt.runtime.bundles.seals import make_seals
from onnxopt.runtime.bundles.verifying import Check

_NOT_AS_IT_WAS = 3
_VALUES = (None, True, -1, 2**70, 1e308, float("nan"), "\x1b[2J", "../x", [], {}, [[]], {"a": {}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    text = "g (float[batch,2] x) => (float[batch,2] y) { y = MatMul (x, w) }"
    ir.save(parse_model(text, {"w": np.eye(2, dtype=np.float32)}), folder / "m.onnx")
    onnxopt.bundle(folder / "m.onnx", folder / "b", options=onnxopt.BundleOptions(seconds=0))
    return folder / "b"


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every entry of a record."""
    if place:
        yield place
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _places(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, (*place, index))


def _with(record: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    holder: Any = changed
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    return changed


def _check(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    result = CliRunner().invoke(cli, ["verify", str(folder)])
    if isinstance(result.exception, OnnxOptError):
        assert len(str(result.exception)) < 600 + len(str(folder))
    else:
        assert isinstance(result.exception, (SystemExit, type(None))), repr(result.exception)
        assert result.exit_code in (0, _NOT_AS_IT_WAS)
    assert "\x1b" not in result.output
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before


@pytest.mark.parametrize("value", _VALUES, ids=str)
def test_entry_of_any_type_ends_in_a_line_or_a_verdict(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    """Each entry of the record in turn, with the seals that who deceives would write."""
    monkeypatch.setattr(verifying, "_samples", lambda root: Check("samples", "passed"))
    folder = Path(shutil.copytree(made, tmp_path / "b"))
    record = json.loads((made / "bundle.json").read_text())
    del record["seals"]
    for place in _places(record):
        changed = _with(record, place, value)
        changed["seals"] = make_seals(changed)
        (folder / "bundle.json").write_text(json.dumps(changed))
        _check(folder)


_RECORDS = {
    "empty": "",
    "deep lists": "[" * 100_000,
    "deep tables": '{"a":' * 100_000,
    "deep and closed": '{"format": 1, "a": ' + "[" * 900 + "]" * 900 + "}",
    "number of many digits": '{"format": ' + "9" * 10_000 + "}",
    "no text": "\udcff",
    "twice the same name": '{"format": 1, "format": 2, "files": {}}',
    "seals that are a list": '{"format": 1, "files": {}, "seals": []}',
    "name of a megabyte": '{"format": 1, "files": {"' + "a" * 1_000_000 + '": {}}}',
    "name that leads outside": '{"format": 1, "model": "m", "files": {"../m": {}, "m": {}}}',
    "name of a device": '{"format": 1, "model": "/dev/zero", "files": {"/dev/zero": {}}}',
    "hundred thousand files": json.dumps({"format": 1, "files": {str(n): 0 for n in range(10**5)}}),
}  # fmt: skip


@pytest.mark.parametrize("name", _RECORDS)
def test_record_that_is_none_ends_in_a_line(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "bundle.json").write_bytes(_RECORDS[name].encode("utf-8", "surrogateescape"))
    _check(folder)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("file", ["bundle.json", "model.onnx", "samples/0.inputs.npz"])
@pytest.mark.parametrize("damage", [_link, _pipe, Path.unlink, lambda path: path.write_bytes(b"")])
def test_file_that_is_something_else_is_a_finding(
    made: Path, tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "b"))
    found = sorted(folder.glob(file.replace("0.inputs", "*")))[0]
    damage(found)
    result = CliRunner().invoke(cli, ["verify", str(folder)])
    assert isinstance(result.exception, (OnnxOptError, SystemExit)), repr(result.exception)
    assert result.exit_code != 0


@pytest.mark.parametrize("kind", ["bomb", "link", "twice", "encrypted", "cut", "nested"])
def test_archive_ends_in_a_line(made: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        record = (made / "bundle.json").read_text()
        if kind == "bomb":  # a record of 64 MB in 64 kB
            record += " " * (64 << 20)
        archive.writestr("bundle.json", record)
        if kind == "link":
            info = zipfile.ZipInfo("model.onnx")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/hostname")
        if kind == "twice":
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("bundle.json", record)
        if kind == "nested":
            archive.writestr("samples", b"a file where a folder has to be")
            archive.writestr("samples/x", b"")
    data = path.read_bytes()
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    if kind == "encrypted":
        entry = b"PK\x01\x02\x14\x03\x14\x00"
        path.write_bytes(data.replace(entry + b"\x00", entry + b"\x01"))
    result = CliRunner().invoke(cli, ["verify", str(path)])
    assert isinstance(result.exception, (OnnxOptError, SystemExit)), repr(result.exception)
    assert result.exit_code != 0
    assert [one.name for one in tmp_path.iterdir()] == ["b.zip"]

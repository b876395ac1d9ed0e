"""Archives of bundles that somebody damaged, or made to fill the disk."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.bundles.archive import extract

_RECORD = {
    "format": 1,
    "model": "model.onnx",
    "files": {"model.onnx": {"bytes": 1 << 40, "sha256": "0" * 64}},
    "session": {},
    "samples": [],
    "tolerances": {},
}


def test_archive_is_refused_when_it_unpacks_to_far_more_than_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("bundle.json", json.dumps(_RECORD))
        archive.writestr("model.onnx", "")
    with pytest.raises(InvalidInputError, match="times as large"):
        extract(tmp_path / "b.zip", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle.json"]


def test_archive_is_refused_when_a_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bundl\u00e9.json", "{}")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(InvalidInputError, match=r"is no \.zip"):
        extract(path, tmp_path / "out")


def test_archive_is_refused_when_a_stream_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("bundle.json", "{}" * 500)
    data = bytearray(path.read_bytes())
    start = data.find(b"bundle.json") + len("bundle.json") + 9
    data[start : start + 11] = bytes(byte ^ 0x5A for byte in data[start : start + 11])
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"is no \.zip"):
        extract(path, tmp_path / "out")

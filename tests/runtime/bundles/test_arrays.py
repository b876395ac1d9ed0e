"""The .npz of samples: every type comes back, the same bytes each time, and no trust on reading."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.bundles.arrays import read_arrays, write_arrays

_ARRAYS = {
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "../odd:name": np.array(7, np.int64),
    "half": np.ones(3, ml_dtypes.bfloat16),
    "text": np.array(["a", "bc"], object),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float16),
}


def test_arrays_survive_when_written_and_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", _ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(_ARRAYS)
    for name, array in _ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bytes_are_the_same_when_written_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_arrays(tmp_path / name, _ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _npy(shape: str, descr: str = "'<f4'", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(_npy("(1000000000000,)"), id="more than is there"),
        pytest.param(_npy("(1,)", "'|O'", b"\x80\x04N."), id="pickle"),
        pytest.param(_npy("(-1,)"), id="negative"),
        pytest.param(_npy("(2,)", "'<f4'", b"\0" * 4), id="short"),
        pytest.param(b"nothing", id="no array"),
    ],
)
def test_member_is_refused_when_it_lies(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("0.npy", member)
        archive.writestr("types.json", json.dumps({"x": ""}))
    with pytest.raises(InvalidInputError, match="is damaged"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "table",
    [[], [1], 5, None, {"x": "int"}, {"x": "load_module"}, {"x": "finfo"}, {"x": None}],
)
def test_table_is_refused_when_it_names_no_type(tmp_path: Path, table: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2, np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("0.npy", buffer.getvalue())
        archive.writestr("types.json", json.dumps(table))
    if table == []:
        assert read_arrays(tmp_path / "a.npz") == {}
        return
    with pytest.raises(InvalidInputError, match="is damaged"):
        read_arrays(tmp_path / "a.npz")

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.mapped import DataFile, blocks, byte_chunks, map_tensor, tensor_chunks


def _file(path, *, keep_open=True):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return DataFile(descriptor, str(path), keep_open=keep_open)
    finally:
        os.close(descriptor)


@pytest.fixture
def data(tmp_path):
    """Two megabytes, more than what is read into memory."""
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(0).bytes(2 << 20))
    return path


@pytest.mark.parametrize("offset", [0, 4096, 13])
def test_array_is_a_read_only_view_of_the_file(data, offset):
    tensor = map_tensor(_file(data), offset, ir.DataType.FLOAT, (100, 300))
    array = tensor.numpy()
    assert array.tobytes() == data.read_bytes()[offset : offset + 120_000] == tensor.tobytes()
    assert not array.flags.writeable
    assert np.asarray(tensor).base is not None


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (ir.DataType.BFLOAT16, ml_dtypes.bfloat16),
        (ir.DataType.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
        (ir.DataType.FLOAT16, np.float16),
        (ir.DataType.BOOL, np.bool_),
    ],
)
def test_array_has_the_type_of_the_tensor(data, dtype, kind):
    assert map_tensor(_file(data), 8, dtype, (2, 3)).numpy().dtype == kind


def test_packed_type_is_unpacked_and_written_packed(tmp_path):
    (tmp_path / "data").write_bytes(b"\x21\xf3")
    tensor = map_tensor(_file(tmp_path / "data"), 0, ir.DataType.INT4, (3,))
    assert tensor.numpy().tolist() == [1, 2, 3]
    assert tensor.nbytes == 2
    assert tensor.tobytes() == b"\x21\xf3"


def test_replaced_file_changes_nothing(data):
    file = _file(data)
    before = data.read_bytes()
    other = data.with_name("other")
    other.write_bytes(b"\0" * len(before))
    other.replace(data)
    assert bytes(file.view()) == before


def test_file_that_is_not_kept_open_is_opened_again(data):
    file = _file(data, keep_open=False)
    assert bytes(file.view()) == data.read_bytes()


def test_file_that_is_not_kept_open_notices_a_change(data):
    file = _file(data, keep_open=False)
    other = data.with_name("other")
    other.write_bytes(b"\0" * file.size)
    other.replace(data)
    with pytest.raises(InvalidModelError, match="changed since"):
        file.view()


def test_chunks_are_the_tensor_in_order(data):
    tensor = map_tensor(_file(data), 13, ir.DataType.INT32, (7, 1000))
    chunks = [chunk.copy() for chunk in tensor_chunks(tensor, 1 << 12)]
    assert max(chunk.nbytes for chunk in chunks) <= 1 << 12
    assert np.concatenate(chunks).tobytes() == tensor.tobytes()
    assert b"".join(bytes(chunk) for chunk in byte_chunks(tensor, 1 << 12)) == tensor.tobytes()


class _ArrayLike:
    """Hides the layout from ir.Tensor, which itself refuses big-endian arrays."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4),
        np.arange(24).reshape(2, 3, 4).T,
        np.arange(240).reshape(1, 1, 240)[..., ::3],
        np.arange(6, dtype=">i4"),
        np.array(7.0),
        np.zeros((3, 0, 2)),
        np.broadcast_to(np.float32(2), (5, 5)),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 40, 1 << 20])
def test_blocks_cover_any_layout_in_row_major_order(array, chunk_bytes):
    parts = [block.tobytes() for block in blocks(array, chunk_bytes)]
    assert b"".join(parts) == array.tobytes()
    tensor = ir.Tensor(
        _ArrayLike(array), ir.DataType.from_numpy(array.dtype.newbyteorder("=")), shape=None
    )
    little = array.astype(array.dtype.newbyteorder("<"))
    assert b"".join(bytes(chunk) for chunk in byte_chunks(tensor, chunk_bytes)) == little.tobytes()

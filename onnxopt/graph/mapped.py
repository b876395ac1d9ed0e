"""Tensors whose data stays in its file until it is looked at.

`DataFile` maps a file into memory once; `MappedTensor` is a range of it. The mapping belongs to the
file that was opened, so renaming another file over its path changes nothing for the model. (What no
mapping survives is another program that shortens the same file in place; onnxopt never does.)

The pages of a mapping that were touched count as memory of the process until they are given back:
what reads every weight goes through `tensor_chunks`, which gives each chunk's pages back.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidModelError
from onnxopt.core.walking import all_graphs

Array = NDArray[Any]

CHUNK_BYTES = 16 << 20
# Below this a copy in memory is cheaper than a mapping, and holds no file descriptor.
_SMALL_FILE = 1 << 20
_CAN_RELEASE = hasattr(mmap, "MADV_DONTNEED")  # not on Windows


class DataFile:
    """The content of one file, read-only.

    Args:
        descriptor: The open file; the caller still closes it.
        path: Its path, for messages and to open it again.
        keep_open: Keep the mapping for good. Otherwise it lasts as long as an array that looks
            into it, and the file is opened again, and checked to be the same, when next needed:
            for models with more data files than a process may have open.
        beside_model: It is a data file beside the model, not the model file itself.
    """

    def __init__(
        self, descriptor: int, path: str, *, keep_open: bool = True, beside_model: bool = False
    ) -> None:
        status = os.fstat(descriptor)
        self.path = path
        self.beside_model = beside_model
        self.size = status.st_size
        self._identity = _identity(status)
        self._keep_open = keep_open
        self._map: mmap.mmap | None = None
        self._content = b""
        if self.size <= _SMALL_FILE:
            self._content = _read(descriptor, self.size)
            self.size = len(self._content)
        elif keep_open:
            self._map = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)

    def is_same(self, status: os.stat_result) -> bool:
        """True if the status is that of the file that was opened, whatever its name now."""
        return self._identity[:2] == (status.st_dev, status.st_ino)

    def view(self) -> memoryview:
        """The whole file; nothing is read before it is looked at."""
        if self.size <= _SMALL_FILE:
            return memoryview(self._content)
        return memoryview(self._map if self._map is not None else self._map_again())

    def _map_again(self) -> mmap.mmap:
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise InvalidModelError(
                f"cannot open {self.path} again: {error.strerror}; leave data files in place"
            ) from error
        try:
            if _identity(os.fstat(descriptor)) != self._identity:
                raise InvalidModelError(f"{self.path} changed since the model was loaded")
            return mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def release(self, offset: int, length: int) -> None:
        """Gives the pages of a range back; they are read again when next looked at."""
        if self._map is None or not _CAN_RELEASE:
            return
        start = offset - offset % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, offset + length - start)


class MappedRange:
    """The bytes of one tensor in a file; reads as a NumPy array.

    Attributes:
        file: The file.
        offset: Where the data begins in it.
        nbytes: How long it is.
    """

    __slots__ = ("_dims", "_dtype", "file", "nbytes", "offset")

    def __init__(
        self, file: DataFile, offset: int, nbytes: int, dtype: ir.DataType, dims: tuple[int, ...]
    ) -> None:
        self.file = file
        self.offset = offset
        self.nbytes = nbytes
        self._dtype = dtype
        self._dims = dims

    def __repr__(self) -> str:
        return f"<{self.nbytes} bytes at {self.offset} of {self.file.path}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A read-only view of the file; types of less than a byte are unpacked into a new array."""
        if self._dtype.bitwidth < 8:
            packed = np.frombuffer(self.bytes(), np.uint8)
            array = ir.PackedTensor(packed, self._dtype, shape=ir.Shape(self._dims)).numpy()
        else:
            kind = self._dtype.numpy().newbyteorder("<")
            array = np.frombuffer(self.bytes(), kind).reshape(self._dims)
        return array if dtype is None else array.astype(dtype, copy=bool(copy))

    def bytes(self) -> memoryview:
        """The data as it is stored."""
        return self.file.view()[self.offset : self.offset + self.nbytes]

    def release(self) -> None:
        """Gives the pages that were read back to the system."""
        self.file.release(self.offset, self.nbytes)


class MappedTensor(ir.Tensor[MappedRange]):
    """A tensor whose data is a range of a file. Arrays of it are read-only views, never copies."""

    __slots__ = ()

    def numpy(self) -> Array:
        """The data, as a view of the file."""
        return self.raw.__array__()

    def tobytes(self) -> bytes:
        """A copy of the data in memory, as ONNX stores it."""
        return bytes(self.raw.bytes())

    def tofile(self, file: BinaryIO) -> None:
        """Writes the data with bounded memory."""
        for chunk in byte_chunks(self):
            file.write(chunk)


def map_tensor(
    file: DataFile,
    offset: int,
    dtype: ir.DataType,
    dims: tuple[int, ...],
    *,
    name: str | None = None,
    doc_string: str | None = None,
    metadata_props: dict[str, str] | None = None,
) -> MappedTensor:
    """A tensor over `file` from `offset` on; the caller has checked that it is long enough."""
    nbytes = stored_bytes(dtype, dims)
    return MappedTensor(
        MappedRange(file, offset, nbytes, dtype, dims),
        dtype,
        shape=ir.Shape(dims),
        name=name,
        doc_string=doc_string,
        metadata_props=metadata_props,
    )


def stored_bytes(dtype: ir.DataType, dims: tuple[int, ...]) -> int:
    """Length of a tensor's data in a file; types of less than a byte are packed."""
    return (math.prod(dims) * dtype.bitwidth + 7) // 8


def tensor_chunks(tensor: ir.TensorProtocol, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
    """The elements of a tensor in row-major order, as flat arrays of at most about `chunk_bytes`.

    With tensors of a loaded model the memory in use stays at one chunk, however large the tensor: a
    chunk is valid until the next one is asked for, so copy what should last.
    """
    if not isinstance(tensor, MappedTensor) or tensor.dtype.bitwidth < 8:
        for block in blocks(tensor.numpy(), chunk_bytes):
            yield block.reshape(-1)
        return
    source = tensor.raw
    flat = tensor.numpy().reshape(-1)
    step = max(1, chunk_bytes // flat.itemsize)
    for start in range(0, flat.size, step):
        chunk = flat[start : start + step]
        yield chunk
        source.file.release(source.offset + start * flat.itemsize, chunk.nbytes)


def byte_chunks(tensor: ir.TensorProtocol, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """The data of a tensor as ONNX stores it: little-endian, row-major, small types packed."""
    if isinstance(tensor, MappedTensor):
        source, data = tensor.raw, tensor.raw.bytes()
        for start in range(0, len(data), chunk_bytes):
            chunk = data[start : start + chunk_bytes]
            yield chunk
            source.file.release(source.offset + start, len(chunk))
        return
    if tensor.dtype.bitwidth < 8:
        yield memoryview(tensor.tobytes())
        return
    for block in blocks(tensor.numpy(), chunk_bytes):
        little = block.astype(block.dtype.newbyteorder("<"), copy=False)
        # As bytes, because memoryview knows neither bfloat16 nor the 8-bit floats.
        yield np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
    if isinstance(tensor, ir.ExternalTensor) and tensor.raw is not None and _CAN_RELEASE:
        tensor.raw.madvise(mmap.MADV_DONTNEED)


def blocks(array: Array, chunk_bytes: int) -> Iterator[Array]:
    """Cuts an array of any strides along its leading axes into blocks in row-major order."""
    if array.nbytes <= chunk_bytes or array.ndim == 0:
        if array.size:
            yield array
        return
    row_bytes = array.nbytes // len(array)
    if row_bytes > chunk_bytes and array.ndim > 1:
        for row in array:
            yield from blocks(row, chunk_bytes)
        return
    rows = max(1, chunk_bytes // row_bytes)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(descriptor: int, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        piece = os.read(descriptor, size - len(content))
        if not piece:
            break
        content += piece
    return bytes(content)


def release_weights(model: ir.Model) -> None:
    """Gives the pages of a model's mapped weights back, before another model's come in."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, MappedTensor):
                value.const_value.raw.release()


def data_files(tensors: Iterable[ir.TensorProtocol]) -> list[str]:
    """Paths of the files beside the model that hold data of these tensors."""
    mapped = (tensor.raw.file for tensor in tensors if isinstance(tensor, MappedTensor))
    return sorted({file.path for file in mapped if file.beside_model})

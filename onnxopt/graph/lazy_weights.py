"""Tensors of a quantized weight that are computed when they are written, and not kept.

The data, scales and zero points of one weight come from one computation. They are written one
after the other, so it is enough to remember the weight that was computed last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.block_weights import WORKERS, BlockWeights, grid_shape
from onnxopt.graph.blocks import BlockEncoding
from onnxopt.graph.packing import pack_columns, pack_flat, pack_rows

# nbits: [channels, blocks, bytes] for MatMulNBits. rows: [rows, bytes] for GatherBlockQuantized.
# standard: UINT4 or UINT8 in the weight's own shape for DequantizeLinear.
Form = Literal["nbits", "rows", "standard"]
Arrays = Mapping[str, NDArray[Any]]

_STANDARD = {
    (4, False): ir.DataType.UINT4,
    (4, True): ir.DataType.INT4,
    (8, False): ir.DataType.UINT8,
    (8, True): ir.DataType.INT8,
}
_CHANNELS = 256  # that one task transposes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What quantization did to a weight.

    Attributes:
        relative_error: Root mean square of the error over that of the weight.
    """

    relative_error: float


class Latest:
    """Remembers the arrays of the weight that was computed last."""

    def __init__(self) -> None:
        self._key: object = None
        self._arrays: Arrays = {}
        self._missing: set[str] = set()

    def get(self, key: object, part: str, compute: Callable[[], Arrays]) -> NDArray[Any]:
        """One array of a weight; all are forgotten once each was asked for."""
        if self._key is not key:
            self._key, self._arrays = None, {}  # before the next ones need the memory
            self._arrays = compute()
            self._key, self._missing = key, set(self._arrays)
        array = self._arrays[part]
        self._missing.discard(part)
        if not self._missing:
            self._key, self._arrays = None, {}
        return array


class QuantizedWeight:
    """A weight that is quantized when its tensors are read.

    Args:
        name: Of the weight, for the names of its parts.
        shape: Of the matrix.
        axis: The summed axis.
        dtype: Type of the scales, that of the weight.
        form: How the integers are packed.
        encoding: How it is quantized.
        compute: Quantizes.
        latest: Where results are remembered.

    Attributes:
        outcome: Set once the weight was computed.
        computing: Called each time before it is.
    """

    def __init__(
        self,
        name: str,
        *,
        shape: tuple[int, int],
        axis: int,
        encoding: BlockEncoding,
        dtype: ir.DataType,
        form: Form,
        compute: Callable[[], BlockWeights],
        latest: Latest,
    ) -> None:
        self.name = name
        self.outcome: Outcome | None = None
        self.computing: Callable[[], None] | None = None
        self.shape = shape
        self.axis = axis
        self.encoding = encoding
        self._dtype = dtype
        self._form = form
        self._compute = compute
        self._latest = latest

    def tensors(self) -> dict[str, ir.TensorProtocol]:
        """The parts: "data", "scales" and, unless the encoding is symmetric, "zeros"."""
        shapes = self._shapes()
        integer = ir.DataType.UINT8
        if self._form == "standard":
            integer = _STANDARD[self.encoding.bits, self.encoding.symmetric]
        return {
            part: self._lazy(part, shape, self._dtype if part == "scales" else integer)
            for part, shape in shapes.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(int(tensor.nbytes) for tensor in self.tensors().values())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        bits, axis = self.encoding.bits, self.axis
        channels, length = self.shape[1 - axis], self.shape[axis]
        blocks = -(-length // self.encoding.block_for(length))
        shapes: dict[str, tuple[int, ...]]
        if self._form == "standard":
            grid = grid_shape(self.shape, axis, self.encoding)
            shapes = {"data": self.shape, "scales": grid, "zeros": grid}
        elif self._form == "rows":
            shapes = {"data": (channels, _bytes(length, bits))}
        else:
            size = self.encoding.block_for(length)
            shapes = {"data": (channels, blocks, _bytes(size, bits))}
        if self._form != "standard":
            shapes |= {"scales": (channels, blocks), "zeros": (channels, _bytes(blocks, bits))}
        if self.encoding.symmetric:
            del shapes["zeros"]
        return shapes

    def _lazy(self, part: str, shape: tuple[int, ...], dtype: ir.DataType) -> ir.TensorProtocol:
        name = f"{self.name}.{part}"

        def read() -> ir.TensorProtocol:
            array = self._latest.get(self, part, self._packed)
            if dtype.bitwidth < 8:
                return ir.PackedTensor(array, dtype, shape=ir.Shape(shape), name=name)
            array = np.ascontiguousarray(array).view(dtype.numpy()).reshape(shape)
            return ir.Tensor(array, dtype=dtype, name=name)

        return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(shape), name=name)

    def _packed(self) -> Arrays:
        if self.computing is not None:
            self.computing()
        found = self._compute()
        self.outcome = Outcome(found.relative_error)
        bits, scales, zeros = found.encoding.bits, found.scales, found.zeros
        data: NDArray[Any]
        if self._form == "standard":
            integers = found.integers
            if found.encoding.symmetric:  # signed: the zero point in the middle becomes 0
                integers = integers ^ np.uint8(found.encoding.middle)
            data = integers if bits == 8 else pack_flat(integers)
            zeros = zeros if bits == 8 else pack_flat(zeros)
        else:
            if found.axis == 0:
                scales, zeros = scales.T, zeros.T
            rows = self._form == "rows"
            data = pack_rows(found.integers, bits) if rows else _pack_blocks(found)
            # Like ONNX Runtime, what fills the last byte stands for zero.
            middle = found.encoding.middle
            zeros = np.pad(zeros, ((0, 0), (0, -zeros.shape[1] % 2)), constant_values=middle)
            zeros = pack_rows(zeros, bits) if bits == 4 else zeros[:, : scales.shape[1]]
        scales = np.ascontiguousarray(scales.astype(self._dtype.numpy(), copy=False))
        arrays: dict[str, NDArray[Any]] = {"data": data, "scales": scales, "zeros": zeros}
        return {part: arrays[part] for part in self._shapes()}


def _pack_blocks(found: BlockWeights) -> NDArray[np.uint8]:
    """[channels, bytes]: the blocks of a channel one after the other, the last one padded."""
    bits, axis = found.encoding.bits, found.axis
    integers = found.integers
    padded = found.scales.shape[axis] * found.encoding.block_for(integers.shape[axis])
    missing = padded - integers.shape[axis]
    if axis == 1:
        if missing:
            integers = np.pad(integers, ((0, 0), (0, missing)))
        return pack_rows(integers, bits)
    if missing:
        integers = np.pad(integers, ((0, missing), (0, 0)))
    out = np.empty((integers.shape[1], _bytes(padded, bits)), np.uint8)
    starts = range(0, integers.shape[1], _CHANNELS)

    def pack(start: int) -> None:
        stop = start + _CHANNELS
        pack_columns(integers[:, start:stop], bits, out[start:stop])

    with ThreadPoolExecutor(WORKERS) as pool:
        _finish(pool.map(pack, starts))
    return out


def _finish(results: Iterable[None]) -> None:
    for _ in results:
        pass


def _bytes(elements: int, bits: int) -> int:
    return -(-elements * bits // 8)

"""Whole weights in blocks: read in strips, computed in tiles that fit a cache, on all cores.

A weight is a matrix. Its summed axis (K: the rows of MatMul's right side, the columns of a
transposed Gemm weight or of an embedding table) is cut into blocks. A strip of a mapped weight is
given back to the system before the next one is read, so that beside the integers no more than a
strip is in memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.blocks import (
    BlockEncoding,
    Float32,
    Grid,
    Integers,
    choose_grid,
    integers_of,
    values_of,
)
from onnxopt.graph.mapped import MappedTensor

_STRIP_BYTES = 32 << 20
_TILE_ELEMENTS = 1 << 17  # half a megabyte of float32: a tile and its integers stay in a cache
WORKERS = max(1, min(8, os.cpu_count() or 1))


@dataclasses.dataclass
class BlockWeights:
    """A weight as integers.

    Attributes:
        integers: Of the weight's shape, one a byte.
        scales: float32, the weight's shape with the summed axis counted in blocks.
        zeros: Zero points, shaped like `scales`.
        encoding: How they were made.
        axis: The summed axis, 0 or 1.
        error: Sum of the squared errors.
        energy: Sum of the squared weights.
    """

    integers: Integers
    scales: Float32
    zeros: Integers
    encoding: BlockEncoding
    axis: int
    error: float = 0.0
    energy: float = 0.0

    @property
    def relative_error(self) -> float:
        """Root mean square of the error over that of the weight."""
        return float(np.sqrt(self.error / self.energy)) if self.energy else 0.0

    def values(self) -> Float32:
        """The weight that the integers stand for; for tests and small weights."""
        length = self.integers.shape[self.axis]
        size = self.encoding.block_for(length)
        scale, zero = (
            np.repeat(part, size, self.axis).take(range(length), self.axis)
            for part in (self.scales, self.zeros.astype(np.float32))
        )
        return values_of(self.integers, Grid(scale, zero))


def grid_shape(shape: tuple[int, int], axis: int, encoding: BlockEncoding) -> tuple[int, ...]:
    """Shape of the scales in DequantizeLinear: of one dimension if there is one a channel."""
    if not encoding.block_size:
        return (shape[1 - axis],)
    grid = list(shape)
    grid[axis] = -(-shape[axis] // encoding.block_for(shape[axis]))
    return tuple(grid)


def empty_weights(shape: tuple[int, int], axis: int, encoding: BlockEncoding) -> BlockWeights:
    """Room for the integers of a weight of that shape."""
    grid = list(shape)
    grid[axis] = -(-shape[axis] // encoding.block_for(shape[axis]))
    return BlockWeights(
        np.empty(shape, np.uint8),
        np.empty(grid, np.float32),
        np.empty(grid, np.uint8),
        encoding,
        axis,
    )


def quantize_weight(
    tensor: ir.TensorProtocol,
    encoding: BlockEncoding,
    axis: int,
    *,
    importance: NDArray[Any] | None = None,
) -> BlockWeights:
    """Quantizes a matrix.

    Args:
        tensor: float32, float16 or bfloat16; [rows, columns].
        encoding: How.
        axis: The summed axis.
        importance: [K]: what squared errors are multiplied with where the method weighs them.

    Raises:
        InvalidModelError: It holds NaN or infinity.
    """
    array = tensor.numpy()
    result = empty_weights(array.shape, axis, encoding)
    size = encoding.block_for(array.shape[axis])

    def work(tile: _Tile) -> tuple[float, float]:
        rows, columns = tile
        source = np.asarray(array[rows, columns], np.float32)
        weights = None
        if importance is not None:
            along = importance[(rows, columns)[axis]].astype(np.float32)
            weights = _blocked(along[:, None] if axis == 0 else along[None], axis, size)
        return _quantize_tile(source, tile, result, size, weights, tensor)

    totals = np.zeros(2)
    with ThreadPoolExecutor(WORKERS) as pool:
        for strip in _strips(array.shape, array.itemsize, axis, size):
            for found in pool.map(work, list(_tiles(strip, array.shape, axis, size))):
                totals += found
            _release(tensor, strip)
    result.error, result.energy = map(float, totals)
    return result


_Tile = tuple[slice, slice]


def _quantize_tile(
    source: Float32,
    tile: _Tile,
    result: BlockWeights,
    size: int,
    importance: Float32 | None,
    tensor: ir.TensorProtocol,
) -> tuple[float, float]:
    axis, encoding = result.axis, result.encoding
    blocked = _blocked(source, axis, size)
    with np.errstate(invalid="ignore", over="ignore"):
        energy = _sum_of_squares(source)
    if not np.isfinite(energy) and not np.isfinite(source).all():
        raise InvalidModelError(
            f"weight {tensor.name!r} holds NaN or infinity; it cannot be quantized: repair it, or "
            "exclude it"
        )
    grid = choose_grid(blocked, axis + 1, encoding, importance, tensor.dtype.numpy())
    integers = integers_of(blocked, grid, encoding)
    error = values_of(integers, grid)
    error -= blocked
    squared = _sum_of_squares(error.reshape(len(error), -1))
    where = list(tile)
    where[axis] = slice(tile[axis].start // size, -(-tile[axis].stop // size))
    result.integers[tile] = _unblocked(integers, axis, source.shape)
    result.scales[tuple(where)] = grid.scale.squeeze(axis + 1)
    result.zeros[tuple(where)] = grid.zero.squeeze(axis + 1)
    return squared, energy


def _sum_of_squares(matrix: Float32) -> float:
    return float(np.einsum("ij,ij->", matrix, matrix))


def _blocked(matrix: Float32, axis: int, size: int) -> Float32:
    """[rows, columns] -> [blocks, size, columns] or [rows, blocks, size], padded with zeros."""
    length = matrix.shape[axis]
    missing = -length % size
    if missing:
        widths = [(0, 0), (0, 0)]
        widths[axis] = (0, missing)
        matrix = np.pad(matrix, widths)
    shape = list(matrix.shape)
    shape[axis : axis + 1] = [(length + missing) // size, size]
    return matrix.reshape(shape)


def _unblocked(tile: Integers, axis: int, shape: tuple[int, ...]) -> Integers:
    joined = list(shape)
    joined[axis] = -1
    joined_tile = tile.reshape(joined)
    return joined_tile[: shape[0], : shape[1]]


def _strips(shape: tuple[int, ...], itemsize: int, axis: int, size: int) -> Iterator[slice]:
    """Ranges of rows, whole blocks each where the blocks run along the rows."""
    unit = size if axis == 0 else 1
    rows = max(1, _STRIP_BYTES // max(1, shape[1] * itemsize * unit)) * unit
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _tiles(strip: slice, shape: tuple[int, ...], axis: int, size: int) -> Iterator[_Tile]:
    """Parts of a strip, whole blocks each."""
    if axis == 0:
        height = size
        width = max(64, _TILE_ELEMENTS // height)
    else:
        width = max(size, _TILE_ELEMENTS // size * size)
        height = max(1, _TILE_ELEMENTS // min(width, max(1, shape[1])))
    for top in range(strip.start, strip.stop, height):
        for left in range(0, shape[1], width):
            yield (
                slice(top, min(top + height, strip.stop)),
                slice(left, min(left + width, shape[1])),
            )


def _release(tensor: ir.TensorProtocol, strip: slice) -> None:
    if isinstance(tensor, MappedTensor):
        row = tensor.raw.nbytes // max(1, tensor.shape.numpy()[0])
        source = tensor.raw
        source.file.release(source.offset + strip.start * row, (strip.stop - strip.start) * row)

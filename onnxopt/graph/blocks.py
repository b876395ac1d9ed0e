"""The numerics of weights in 4 or 8 bits, in blocks that share a scale.

    q = clip(floor(w / scale + zero + 1/2), 0, 2^bits - 1)        w ~ (q - zero) * scale

asymmetric: scale = (max - min) / (2^bits - 1), zero = round(-min / scale), with min <= 0 <= max
symmetric:  scale = extremum / -2^(bits-1), zero = 2^(bits-1): the element of largest magnitude is
            met exactly, whatever its sign, and the range has one step more on its side

These are the formulas and the rounding (half up, with the reciprocal of the scale) of ONNX
Runtime's blockwise quantizer, bit for bit. Everything here works on arrays in which one axis runs
within a block and the others count blocks and channels, so that one NumPy call does them all.

"hqq" is the objective of Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
Models" (2023), in which outliers count less than in a square. Their solver moves a zero point
between the integers; the fast kernels read integers only, to which most of its results round back,
so clipped ranges are searched instead.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

Float32 = NDArray[np.float32]
Integers = NDArray[np.uint8]
Method = Literal["rtn", "mse", "hqq"]

METHODS: tuple[Method, ...] = get_args(Method)
BITS = (4, 8)
# Kernels of MatMulNBits and GatherBlockQuantized want a power of two from here on.
SMALLEST_BLOCK = 16
_SHARES = np.linspace(1.0, 0.6, 11, dtype=np.float32)
_HQQ_NORM = np.float32(0.7)
_TINY = np.float32(1e-12)


@dataclasses.dataclass(frozen=True)
class BlockEncoding:
    """How weights become integers.

    Attributes:
        bits: 4 or 8.
        block_size: Neighbours along the axis that is summed over which share a scale: a power of
            two from 16 on, or 0 for a whole channel.
        symmetric: No zero points.
        method: "rtn" takes the range of the block; "mse" clips it where that makes the squared
            error smaller, "hqq" where it makes the sum of |error|^0.7 smaller.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = False
    method: Method = "rtn"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InvalidInputError(f"weights take {' or '.join(map(str, BITS))} bits, not "
                                    f"{self.bits}")  # fmt: skip
        size = self.block_size
        if size and (size < SMALLEST_BLOCK or size & (size - 1)):
            raise InvalidInputError(
                f"a block size is a power of two from {SMALLEST_BLOCK} on, or 0 for one scale a "
                f"channel, not {size}"
            )
        if self.method not in METHODS:
            raise InvalidInputError(f"the methods are {', '.join(METHODS)}, not {self.method!r}")

    @property
    def levels(self) -> int:
        """The largest integer."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """What stands for zero in symmetric encodings."""
        return 1 << (self.bits - 1)

    def block_for(self, length: int) -> int:
        """The block size along an axis of that length: never more than twice the axis."""
        if not self.block_size:
            return length
        return min(self.block_size, max(SMALLEST_BLOCK, 1 << (length - 1).bit_length()))


@dataclasses.dataclass(frozen=True)
class Grid:
    """Scales and zero points of blocks; the axis within a block has length 1.

    Attributes:
        scale: float32.
        zero: Integers as float32.
    """

    scale: Float32
    zero: Float32

    @property
    def inverse(self) -> Float32:
        """The reciprocals of the scales; 0 for blocks of zeros."""
        result = np.zeros_like(self.scale)
        np.divide(np.float32(1), self.scale, out=result, where=self.scale != 0)
        return result


def ranges(tile: Float32, axis: int) -> tuple[Float32, Float32]:
    """Smallest and largest element of every block; zero lies between them."""
    zero = np.float32(0)
    low = np.minimum(tile.min(axis, keepdims=True), zero)
    high = np.maximum(tile.max(axis, keepdims=True), zero)
    return low, high


def grid_of(low: Float32, high: Float32, encoding: BlockEncoding) -> Grid:
    """Scale and zero point of ranges that include zero."""
    if encoding.symmetric:
        extremum = np.where(high > -low, high, low)
        scale = (extremum / np.float32(-encoding.middle)).astype(np.float32)
        return Grid(scale, np.full_like(scale, encoding.middle))
    scale = ((high - low) / np.float32(encoding.levels)).astype(np.float32)
    zero = np.zeros_like(scale)
    np.divide(-low, scale, out=zero, where=scale != 0)
    return Grid(scale, np.floor(np.clip(zero, 0, encoding.levels) + np.float32(0.5)))


def integers_of(tile: Float32, grid: Grid, encoding: BlockEncoding) -> Integers:
    """The integers of a tile."""
    steps = tile * grid.inverse
    steps += grid.zero + np.float32(0.5)
    np.clip(steps, 0, encoding.levels + 0.5, out=steps)  # a cast cuts off what is behind the point
    return steps.astype(np.uint8)


def values_of(integers: Integers, grid: Grid) -> Float32:
    """What integers stand for."""
    result = integers.astype(np.float32)
    result -= grid.zero
    result *= grid.scale
    return result


def choose_grid(
    tile: Float32,
    axis: int,
    encoding: BlockEncoding,
    importance: Float32 | None = None,
    precision: np.dtype[Any] | None = None,
) -> Grid:
    """Scale and zero point of every block of a tile, by the encoding's method.

    Args:
        tile: Finite weights.
        axis: The axis within a block.
        encoding: The integers and the method.
        importance: What squared errors are multiplied with, broadcast against the tile; the mean
            square of the activation that a weight meets makes it the error of the output.
        precision: Type that the scales are stored in, if it is not float32.
    """
    low, high = ranges(tile, axis)
    best = _stored(grid_of(low, high, encoding), precision)
    if encoding.method == "rtn":
        return best
    least = loss(tile, axis, best, encoding, importance)

    def offer(grid: Grid) -> None:
        """Takes the grid in the blocks in which it is better."""
        nonlocal best, least
        grid = _stored(grid, precision)
        found = loss(tile, axis, grid, encoding, importance)
        wins = found < least
        scale, zero = np.where(wins, grid.scale, best.scale), np.where(wins, grid.zero, best.zero)
        best, least = Grid(scale, zero), np.where(wins, found, least)

    for share in _SHARES[1:]:
        offer(grid_of(low * share, high * share, encoding))
    offer(_least_squares(tile, axis, best, encoding, importance))
    return best


def loss(
    tile: Float32, axis: int, grid: Grid, encoding: BlockEncoding, importance: Float32 | None = None
) -> Float32:
    """What the method makes small, for every block: the squared error, or its p-norm for "hqq"."""
    error = values_of(integers_of(tile, grid, encoding), grid)
    error -= tile
    if encoding.method == "hqq":
        np.abs(error, out=error)
        error += _TINY
        # exp and log are vectorized in NumPy, power is not.
        np.log(error, out=error)
        error *= _HQQ_NORM
        np.exp(error, out=error)
    else:
        np.square(error, out=error)
    if importance is not None:
        error *= importance
    result: Float32 = error.sum(axis, keepdims=True)
    return result


def _least_squares(
    tile: Float32, axis: int, grid: Grid, encoding: BlockEncoding, importance: Float32 | None
) -> Grid:
    """The best scales for the integers that a grid gives: sum(w d) / sum(d d), d = q - zero."""
    steps = integers_of(tile, grid, encoding).astype(np.float32) - grid.zero
    weighted = steps if importance is None else steps * importance
    squares = (weighted * steps).sum(axis, keepdims=True)
    scale = grid.scale.copy()
    np.divide((weighted * tile).sum(axis, keepdims=True), squares, out=scale, where=squares != 0)
    return Grid(scale, grid.zero)


def _stored(grid: Grid, precision: np.dtype[Any] | None) -> Grid:
    """The grid with scales that a type can hold; integers should fit what will be read back."""
    if precision is None or precision == np.float32:
        return grid
    return Grid(grid.scale.astype(precision).astype(np.float32), grid.zero)

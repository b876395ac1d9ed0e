"""The numerics of integer quantization: ranges -> scale and zero point -> integers -> numbers.

    q = saturate(round_half_to_even(x / scale) + zero_point)        x ~ (q - zero_point) * scale

as ONNX defines QuantizeLinear and DequantizeLinear, computed in float32 so that the integers are
bit for bit those of ONNX Runtime. One scale covers a tensor, a channel of it (one index of `axis`)
or a block of `block_size` neighbours along `axis`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

Array = NDArray[Any]
Float32 = NDArray[np.float32]
IntegerType = Literal["int8", "uint8", "int16", "uint16"]

INTEGER_TYPES: tuple[IntegerType, ...] = get_args(IntegerType)
# Smaller scales are denormal, or their inverse is infinite.
_SMALLEST_SCALE = np.float32(2.0**-120)
_INT32 = np.iinfo(np.int32)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The integers to use.

    Attributes:
        type: The integer type.
        symmetric: Zero lies in the middle (0, or 128 of uint8), so that ranges do as well.
        reduce_range: Use 7 of 8 bits: CPUs without VNNI add two products in 16 bits, and saturate.
    """

    type: IntegerType = "uint8"
    symmetric: bool = False
    reduce_range: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type."""
        return np.dtype(self.type)

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer; both signs alike where that centers the range on zero."""
        info = np.iinfo(self.dtype)
        low, high = int(info.min), int(info.max)
        if self.reduce_range:
            low, high = low // 2, high // 2
        if self.symmetric:
            low += 1
        return low, high


@dataclasses.dataclass(frozen=True)
class QuantizationParameters:
    """How a tensor is quantized.

    Attributes:
        scale: float32; a scalar, [channels] or, in blocks, the tensor's shape with the blocked axis
            divided by the block size.
        zero_point: Of the integer type, shaped like `scale`.
        axis: Of the channels or blocks; None for one scale in all.
        block_size: Neighbours along `axis` that share a scale; 0 for a whole channel.
    """

    scale: Float32
    zero_point: Array
    axis: int | None = None
    block_size: int = 0

    def expanded(self, shape: tuple[int, ...]) -> tuple[Float32, Array]:
        """Scale and zero point in a shape that broadcasts with a tensor of `shape`."""
        if self.axis is None:
            return self.scale, self.zero_point
        if self.block_size:
            parts = (
                np.repeat(part, self.block_size, self.axis).take(range(shape[self.axis]), self.axis)
                for part in (self.scale, self.zero_point)
            )
        else:
            form = [1] * len(shape)
            form[self.axis] = -1
            parts = (part.reshape(form) for part in (self.scale, self.zero_point))
        scale, zero_point = parts
        return scale, zero_point


def parameters(
    low: Any,
    high: Any,
    encoding: Encoding,
    *,
    axis: int | None = None,
    block_size: int = 0,
) -> QuantizationParameters:
    """Scale and zero point of ranges.

    Zero is always representable: padding, Relu and masks rely on it. A range of zero width gets the
    smallest scale.

    Args:
        low: Lower ends, a number or one per channel or block.
        high: Upper ends.
        encoding: The integers.
        axis: Of channels or blocks.
        block_size: Size of a block.

    Raises:
        InvalidInputError: A range is NaN, infinite or reversed.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise InvalidInputError("a range to quantize has to be finite, its lower end first")
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    smallest, largest = encoding.bounds
    if encoding.symmetric:
        middle = (smallest + largest) // 2
        width, steps = np.maximum(-low, high), largest - middle
        scale = np.maximum((width / steps).astype(np.float32), _SMALLEST_SCALE)
        zero = np.full(scale.shape, middle)
    else:
        scale = ((high - low) / (largest - smallest)).astype(np.float32)
        scale = np.maximum(scale, _SMALLEST_SCALE)
        zero = np.clip(np.rint(smallest - low / scale), smallest, largest)
    return QuantizationParameters(
        np.asarray(scale, np.float32), np.asarray(zero, encoding.dtype), axis, block_size
    )


def quantize(array: Array, params: QuantizationParameters) -> Array:
    """The integers, as QuantizeLinear of ONNX Runtime computes them.

    NaN becomes the smallest integer.
    """
    scale, zero = params.expanded(array.shape)
    info = np.iinfo(zero.dtype)
    wide = zero.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = array.astype(np.float32) / scale
    lowest, highest = info.min - wide, info.max - wide
    # In this order NaN ends as the lowest integer.
    steps = np.fmin(np.fmax(steps, lowest), highest)
    result: Array = (np.rint(steps) + wide).astype(zero.dtype)
    return result


def dequantize(integers: Array, params: QuantizationParameters) -> Float32:
    """The numbers that integers stand for, as DequantizeLinear computes them."""
    scale, zero = params.expanded(integers.shape)
    steps = integers.astype(np.int32) - zero.astype(np.int32)
    result: Float32 = steps.astype(np.float32) * scale
    return result


def is_finite(array: Array) -> bool:
    """True if no element is NaN or infinite."""
    return not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def ranges_of(
    array: Array, axis: int | None = None, block_size: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest element of the tensor, of every channel or of every block."""
    if axis is None:
        ends = (array.min(), array.max()) if array.size else (0.0, 0.0)
        return np.asarray(ends[0], np.float64), np.asarray(ends[1], np.float64)
    if block_size:
        starts = np.arange(0, array.shape[axis], block_size)
        low, high = (reduce.reduceat(array, starts, axis) for reduce in (np.minimum, np.maximum))
    else:
        others = tuple(index for index in range(array.ndim) if index != axis % array.ndim)
        low, high = array.min(others), array.max(others)
    return low.astype(np.float64), high.astype(np.float64)


def quantize_bias(bias: Array, scale: Array) -> NDArray[np.int32]:
    """An int32 bias with zero point 0, saturated."""
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    result: NDArray[np.int32] = np.clip(steps, _INT32.min, _INT32.max).astype(np.int32)
    return result


def smallest_bias_scale(bias: Array) -> NDArray[np.float64]:
    """The smallest scale, by element, at which the bias fits int32 with a bit to spare.

    The bit is for the accumulator that the bias is added to.
    """
    result: NDArray[np.float64] = np.abs(bias).astype(np.float64) / (_INT32.max // 2)
    return result

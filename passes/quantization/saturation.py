"""Weights that cannot saturate kernels which add two 8-bit products in 16 bits.

Such kernels (vpmaddubsw, of AVX2 and of AVX-512 without VNNI) compute a0 w0 + a1 w1 of neighbours
along the summed dimension and saturate at 32767. With activations of at most 255 nothing can
saturate if |w0 + w1| <= 128 for all such pairs: of different signs, they cancel. Halving the range
of all weights makes sure of that and costs a whole bit; the largest pair of a channel is usually
far smaller than twice the largest weight, so a scale that follows from pairs costs about half a
bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# 255 (|w0| + |w1|) <= 32767, with a rounding of a half in each of them.
_LARGEST_SUM = 127.0
LARGEST_PAIR = 128  # of rounded weights


def can_saturate(weights: NDArray[np.int8], axis: int) -> bool:
    """True if uint8 activations exist with which a pair of these weights saturates.

    Args:
        weights: A matrix, or the kernel of a Conv.
        axis: Of the output channels.
    """
    return bool(largest_pairs(weights.astype(np.int16), axis).max(initial=0) > LARGEST_PAIR)


def smallest_unsaturated_scale(array: NDArray[Any], axis: int | None) -> NDArray[np.float64]:
    """The smallest scale of int8 weights, by channel, with which no pair can saturate.

    Args:
        array: A matrix, or the kernel of a Conv.
        axis: Of the output channels; None for one scale.
    """
    largest = largest_pairs(array, array.ndim - 1 if axis is None else axis)
    scale: NDArray[np.float64] = largest / _LARGEST_SUM
    return np.asarray(scale.max(initial=0.0)) if axis is None else scale


def largest_pairs(array: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """The largest sum of two neighbouring weights, by output channel.

    Weights of different signs never saturate: their products cancel, and each is small enough on
    its own. Which neighbours a kernel of a Conv pairs depends on its layout, so those of both
    layouts count.
    """
    rows = np.moveaxis(array, axis, 0)
    layouts = [rows.reshape(len(rows), -1)]
    if rows.ndim > 2:
        layouts.append(np.moveaxis(rows, 1, -1).reshape(len(rows), -1))
    largest = np.zeros(len(rows))
    for flat in layouts:
        pairs = np.abs(flat[:, :-1] + flat[:, 1:]) if flat.shape[1] > 1 else np.abs(flat)
        largest = np.maximum(largest, pairs.max(axis=1, initial=0.0))
    return largest

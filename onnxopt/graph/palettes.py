"""Few values for many weights: one-dimensional k-means.

In one dimension clusters are intervals: a weight belongs to the value that the midpoints between
neighbours put it next to. On sorted weights with running sums an iteration of Lloyd's algorithm is
a binary search per midpoint, whatever the number of weights.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.mapped import tensor_chunks

Values = NDArray[np.float32]

# Enough to place 256 values to a thousandth of their distance.
_SAMPLE = 1 << 21
_ITERATIONS = 60


def find_palette(tensor: ir.TensorProtocol, count: int) -> Values:
    """The values, ascending, that stand for all weights with about the least squared error.

    Of a larger tensor an evenly spaced sample of two million weights is looked at, and what is
    largest and smallest. Zero, where weights are zero, stays zero, so that what was pruned stays
    pruned.

    Args:
        tensor: Weights of any shape.
        count: How many values there may be; fewer come back where there are fewer weights apart.

    Raises:
        InvalidModelError: A weight is NaN or infinite.
    """
    step = max(1, tensor.size // _SAMPLE)
    parts, zeros = [], 0
    for chunk in tensor_chunks(tensor):
        weights = chunk.astype(np.float32)
        if not np.isfinite(weights).all():
            raise InvalidModelError(
                f"weight {tensor.name!r} holds NaN or infinity; it cannot be clustered: repair it, "
                "or exclude it"
            )
        zeros += int(np.count_nonzero(weights == 0))
        parts += [weights[::step], weights[[weights.argmin(), weights.argmax()]]]
    ordered = np.sort(np.concatenate(parts))
    apart = np.unique(ordered)
    palette = apart if len(apart) <= count else _cluster(ordered, apart, count)
    if zeros:
        palette[np.abs(palette).argmin()] = 0
    return np.unique(palette)


def _cluster(ordered: Values, apart: Values, count: int) -> Values:
    """Lloyd's algorithm from quantiles that also reach into the tails."""
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    places = np.linspace(0, 1, count)
    evenly = apart[0] + places * (apart[-1] - apart[0])
    palette = np.sort((np.quantile(ordered, places) + evenly) / 2)
    for _ in range(_ITERATIONS):
        bounds = np.searchsorted(ordered, (palette[1:] + palette[:-1]) / 2)
        bounds = np.concatenate([[0], bounds, [len(ordered)]])
        counts = np.diff(bounds)
        means = np.diff(sums[bounds])
        moved = np.where(counts > 0, means / np.maximum(counts, 1), palette)
        if np.allclose(moved, palette, rtol=0, atol=1e-6 * float(np.ptp(palette))):
            break
        palette = np.sort(moved)
    return palette.astype(np.float32)


def nearest(palette: Values, tensor: ir.TensorProtocol) -> NDArray[np.uint8]:
    """Index of the nearest value of a palette of at most 256, for every weight."""
    middles = (palette[1:] + palette[:-1]) / 2
    out = np.empty(tensor.size, np.uint8)
    start = 0
    for chunk in tensor_chunks(tensor):
        out[start : start + len(chunk)] = np.searchsorted(middles, chunk.astype(np.float32))
        start += len(chunk)
    return out.reshape(tensor.shape.numpy())

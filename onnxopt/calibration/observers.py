"""How to choose the range of a tensor from its statistics.

    min-max         all that occurred
    moving-average  the mean over batches of their smallest and largest values
    percentile      all but a small share of the values, half of it at each end
    entropy         the clipped range whose quantized distribution diverges least (Kullback-Leibler)
    mse             the clipped range with the least squared error of quantization

Szymon Migacz, "8-bit inference with TensorRT" (GTC 2017), has the entropy method; here both ends
move, and the distribution is that of the integers which are really used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxopt.calibration.statistics import Statistics
from onnxopt.graph.quantization import Encoding, dequantize, parameters, quantize

Method = Literal["min-max", "moving-average", "percentile", "entropy", "mse"]
Range = tuple[float, float]
_Loss = Callable[[NDArray[np.float32], NDArray[np.float64], Range, Encoding], float]

METHODS: tuple[Method, ...] = get_args(Method)
DEFAULT_PERCENTILE = 99.999
# Shares of the full range that are tried as clipped ranges, for entropy and mse.
_SHARES = np.geomspace(0.02, 1.0, 48)
_MOST_VALUES = 2048
_EPSILON = 1e-9


def choose_range(
    statistics: Statistics,
    method: Method,
    encoding: Encoding,
    *,
    percentile: float = DEFAULT_PERCENTILE,
) -> Range:
    """The range by a method.

    Args:
        statistics: What was seen.
        method: How to choose.
        encoding: The integers, on which the error depends.
        percentile: Share of the values to keep, in percent.
    """
    full = (statistics.low, statistics.high)
    if method == "min-max" or not len(statistics.histogram.counts) or full[0] == full[1]:
        return full
    if method == "moving-average":
        return statistics.mean_low, statistics.mean_high
    if method == "percentile":
        low, high = _percentile(statistics, percentile)
        return max(low, full[0]), min(high, full[1])
    return _searched(statistics, encoding, divergence if method == "entropy" else squared_error)


def _percentile(statistics: Statistics, percentile: float) -> Range:
    histogram = statistics.histogram
    cumulated = np.cumsum(histogram.counts)
    left_out = cumulated[-1] * (1 - percentile / 100) / 2
    edges = histogram.edges
    first = int(np.searchsorted(cumulated, left_out, side="right"))
    last = int(np.searchsorted(cumulated, cumulated[-1] - left_out, side="left"))
    return float(edges[first]), float(edges[min(last, len(histogram.counts) - 1) + 1])


def _searched(statistics: Statistics, encoding: Encoding, loss: _Loss) -> Range:
    """Both ends together first, then each on its own around what was found."""
    centers, counts = _occupied(statistics)
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)

    def at(low_share: float, high_share: float) -> float:
        return loss(centers, counts, (low * low_share, high * high_share), encoding)

    both = min(_SHARES, key=lambda share: at(share, share))
    if encoding.symmetric or low == 0.0 or high == 0.0:
        return low * both, high * both
    upper = min(_SHARES, key=lambda share: at(both, share))
    lower = min(_SHARES, key=lambda share: at(share, upper))
    return low * lower, high * upper


def _occupied(statistics: Statistics) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values and their counts, few enough to try many ranges on."""
    histogram = statistics.histogram
    occupied = np.flatnonzero(histogram.counts)
    centers, counts = histogram.centers[occupied], histogram.counts[occupied].astype(np.float64)
    groups = (occupied - occupied[0]) * _MOST_VALUES // (occupied[-1] - occupied[0] + 1)
    weights = np.bincount(groups, counts).astype(np.float64)
    means = np.bincount(groups, counts * centers) / np.maximum(weights, 1)
    return means[weights > 0].astype(np.float32), weights[weights > 0]


def squared_error(
    centers: NDArray[np.float32], counts: NDArray[np.float64], ends: Range, encoding: Encoding
) -> float:
    """Sum of the squared errors of quantization, clipping included."""
    params = parameters(*ends, encoding)
    error = dequantize(quantize(centers, params), params) - centers
    return float(np.square(error, dtype=np.float64) @ counts)


def divergence(
    centers: NDArray[np.float32], counts: NDArray[np.float64], ends: Range, encoding: Encoding
) -> float:
    """Kullback-Leibler divergence of the quantized distribution from the clipped one.

    Values outside of the range are counted at its ends in the true distribution and are missing in
    the quantized one, which is what makes clipping cost something.
    """
    params = parameters(*ends, encoding)
    clipped = np.clip(centers, np.float32(ends[0]), np.float32(ends[1]))
    inside = clipped == centers
    levels = quantize(clipped, params).astype(np.int64)
    levels -= levels.min()
    # Each level spreads what it holds evenly over the bins that it stands for.
    held = np.bincount(levels, weights=np.where(inside, counts, 0.0))
    bins = np.bincount(levels[inside], minlength=len(held))
    quantized = np.where(inside, (held / np.maximum(bins, 1))[levels], 0.0)
    # What is outside adds to the outermost bins that are inside.
    true = np.where(inside, counts, 0.0)
    if inside.any():
        positions = np.flatnonzero(inside)
        true[positions[0]] += counts[: positions[0]].sum()
        true[positions[-1]] += counts[positions[-1] + 1 :].sum()
    p, q = true / counts.sum(), quantized / max(quantized.sum(), _EPSILON)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], _EPSILON))).sum())

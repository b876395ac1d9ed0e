"""AWQ: scales of input channels under which rounding costs the output least.

    X W = (X / s) (s W) ~ (X / s) Q(s W),    s = rms(X)^alpha

Lin, Tang, Tang, Yang, Dang, Han, "AWQ: Activation-aware Weight Quantization" (2023). Channels that
carry large activations get larger weights, and so a smaller share of the rounding. alpha is
searched; the error of the output follows from the second moments of X without running anything:

    |X W - (X / s) Q(s W)|^2 = tr(D' H D),    D = W - Q(s W) / s,    H = X'X
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.block_weights import quantize_weight
from onnxopt.graph.blocks import BlockEncoding, Float32

_EXPONENTS = np.linspace(0.0, 1.0, 11)
# Columns of a weight that the search looks at: enough to tell exponents apart.
_COLUMNS = 1024
_TINY = 1e-8


def output_error(weight: Float32, rounded: Float32, moments: NDArray[np.float64]) -> float:
    """tr(D' H D) of two weights [K, N]: the squared error of the product, up to a factor."""
    difference = rounded - weight
    return float(np.vdot(difference, moments.astype(np.float32) @ difference))


def search_scales(
    weights: Sequence[tuple[NDArray[Any], BlockEncoding]], moments: NDArray[np.float64]
) -> Float32:
    """The scales [K] of the input that all the given weights [K, N] share; ones if none help.

    Args:
        weights: What reads the input, with the encoding that each will have.
        moments: Second moments of the input, [K, K].
    """
    strength = np.sqrt(np.diagonal(moments)) + _TINY
    best, least = np.ones(len(strength), np.float32), np.inf
    for exponent in _EXPONENTS:
        scales = strength**exponent
        scales /= np.sqrt(scales.max() * scales.min())
        scales = np.clip(scales, 1e-3, 1e3).astype(np.float32)
        error = sum(_error(weight, scales, encoding, moments) for weight, encoding in weights)
        if error < least:
            best, least = scales, error
    return best


def _error(
    weight: NDArray[Any], scales: Float32, encoding: BlockEncoding, moments: NDArray[np.float64]
) -> float:
    step = -(-weight.shape[1] // _COLUMNS)
    part = np.asarray(weight[:, ::step], np.float32)
    importance = np.diagonal(moments) / np.square(scales)
    scaled = ir.Tensor(np.ascontiguousarray(part * scales[:, None]))
    rounded = quantize_weight(scaled, encoding, 0, importance=importance).values()
    error = output_error(part, rounded / scales[:, None], moments)
    return error * float(step)

"""Choosing the integers of every weight by the error of its product on calibration data."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.product_rows import product_rows
from onnxopt.graph.calibrated import RoundedWeight, Roundings
from onnxopt.graph.products import Product, product_of
from onnxopt.graph.quantization import Encoding, quantize
from onnxopt.graph.rounding import damping_for, round_with_moments
from onnxopt.passes.quantization.saturation import LARGEST_PAIR, largest_pairs
from onnxopt.passes.quantization.tensors import weight_parameters
from onnxopt.runtime.diagnosis.probing import Probe

# Rows that say whether the integers found on the others are better than the nearest ones.
_HELD_OUT = 4
_LARGEST = 127  # of both symmetric types, as far from their zero point


def solve_roundings(
    model: ir.Model,
    data: CalibrationData,
    samples: Sequence[int],
    *,
    encoding: Encoding,
    per_channel: bool,
    max_memory: int,
    end: float = math.inf,
) -> Roundings:
    """Integers of the weights of Conv, Gemm and MatMul, where they beat the nearest ones.

    Weights that several nodes read keep their nearest integers, as do those whose product is no
    better on rows that were kept apart.

    Args:
        model: The float model.
        data: What to run it on.
        samples: Indexes of the input sets to use.
        encoding: The integers of weights, symmetric.
        per_channel: A scale for each output channel of a weight.
        max_memory: Bytes for activations, beyond the model itself.
        end: When to stop, as `time.perf_counter` counts; weights left keep their nearest integers.
    """
    probe = Probe(model)
    products = [
        product
        for node in probe.model.graph
        if (product := product_of(node)) is not None and len(product.weight.uses()) == 1
    ]
    found: dict[str, RoundedWeight] = {}
    for product, rows in product_rows(probe, products, data, samples, max_memory=max_memory):
        if time.perf_counter() > end:
            break
        axis = product.channel_axis if per_channel else None
        solved = _solve(product, rows, encoding, axis)
        if solved is not None:
            found[product.weight.name or ""] = solved
    return Roundings(found)


def _solve(
    product: Product, rows: NDArray[np.float32], encoding: Encoding, axis: int | None
) -> RoundedWeight | None:
    weight = product.matrices()
    params = weight_parameters(product.stored(weight).astype(np.float32), encoding, axis)
    zero = np.int16(params.zero_point.flat[0])
    nearest = quantize(product.stored(weight), params).astype(np.int16) - zero
    scale = params.scale if axis is None else params.scale.reshape(product.groups, 1, -1)
    held_out = rows[:, ::_HELD_OUT]
    kept = np.delete(rows, np.s_[::_HELD_OUT], axis=1) if rows.shape[1] >= _HELD_OUT else rows
    moments = kept.transpose(0, 2, 1) @ kept / np.float32(kept.shape[1])
    if not np.isfinite(moments).all():  # numbers too large to be squared
        return None
    damping = damping_for(product.length, kept.shape[1])
    integers = round_with_moments(weight, scale, moments, _LARGEST, damping=damping)
    stored = product.stored(integers).astype(np.int16)
    if encoding.reduce_range:
        _unsaturate(stored, nearest, product.channel_axis)

    def error(chosen: NDArray[np.int16]) -> float:
        difference = product.matrices(chosen.astype(np.float32)) * scale - weight
        return float(np.linalg.norm(held_out @ difference))

    if not error(stored) < error(nearest):
        return None
    return RoundedWeight((stored + zero).astype(encoding.dtype), params)


def _unsaturate(stored: NDArray[np.int16], nearest: NDArray[np.int16], axis: int) -> None:
    """Channels with a pair that could saturate get back their nearest integers, where none can."""
    over = largest_pairs(stored, axis) > LARGEST_PAIR
    channels = np.moveaxis(stored, axis, 0)
    channels[over] = np.moveaxis(nearest, axis, 0)[over]

"""Scales with which no pair of weights saturates 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt.graph.quantization import Encoding, QuantizationParameters, quantize
from onnxopt.passes.quantization.saturation import smallest_unsaturated_scale

values = st.floats(-4, 4, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
kernels = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=values
)


@settings(max_examples=80, deadline=None)
@given(kernels, st.sampled_from([0, 1, None]))
def test_no_pair_of_neighbours_saturates(array: np.ndarray, axis: int | None) -> None:
    scale = np.maximum(smallest_unsaturated_scale(array, axis), 1e-6).astype(np.float32)
    params = QuantizationParameters(scale, np.zeros_like(scale, np.int8), axis)
    integers = quantize(array, params).astype(np.int32)
    rows = np.moveaxis(integers, array.ndim - 1 if axis is None else axis, 0)
    for layout in (rows, np.moveaxis(rows, 1, -1)):
        flat = layout.reshape(len(rows), -1)
        for low, high in ((0, 255), (255, 0), (255, 255)):  # the corners of what inputs can be
            assert (np.abs(low * flat[:, :-1] + high * flat[:, 1:]) <= 32767).all()


def test_it_costs_less_than_a_bit() -> None:
    array = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    full = np.abs(array).max(0) / 127
    scale = smallest_unsaturated_scale(array, 1)
    assert scale.mean() < 1.6 * full.mean()


@pytest.mark.parametrize("encoding", [Encoding("int8", True, True)])
def test_halving_the_range_is_never_better(encoding: Encoding) -> None:
    array = np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32)
    halved = np.abs(array).max(0) / encoding.bounds[1]
    assert (smallest_unsaturated_scale(array, 1) <= halved * 1.02).all()

"""The numerics, bit for bit those of ONNX Runtime."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.quantization import (
    INTEGER_TYPES,
    Encoding,
    QuantizationParameters,
    dequantize,
    parameters,
    quantize,
    quantize_bias,
    ranges_of,
    smallest_bias_scale,
)


@functools.cache
def session(type_: str, rank: int, axis: int | None, block: int) -> ort.InferenceSession:
    integer = getattr(TensorProto, type_.upper())
    attributes = {} if axis is None else {"axis": axis}
    if block:
        attributes["block_size"] = block
    scale_rank = 0 if axis is None else rank if block else 1
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [None] * scale_rank),
            helper.make_tensor_value_info("z", integer, [None] * scale_rank),
        ],
        [
            helper.make_tensor_value_info("q", integer, None),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def assert_same_as_runtime(x: np.ndarray, params: QuantizationParameters) -> None:
    kind = params.zero_point.dtype.name
    run = session(kind, x.ndim, params.axis, params.block_size)
    q, y = run.run(None, {"x": x, "s": params.scale, "z": params.zero_point})
    ours = quantize(x, params)
    np.testing.assert_array_equal(ours, q, strict=True)
    np.testing.assert_array_equal(dequantize(ours, params), y, strict=True)


floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
arrays = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=20), elements=floats
)
encodings = st.builds(Encoding, st.sampled_from(INTEGER_TYPES), st.booleans(), st.booleans())


@settings(max_examples=150, deadline=None)
@given(arrays, encodings, st.floats(0.1, 2.0))
def test_integers_are_those_of_onnx_runtime_per_tensor(
    x: np.ndarray, encoding: Encoding, part: float
) -> None:
    low, high = ranges_of(x)
    assert_same_as_runtime(
        x,
        parameters(low * part, high * part, encoding)
        if low <= 0 <= high
        else parameters(min(low, 0), max(high, 0), encoding),
    )


@settings(max_examples=100, deadline=None)
@given(arrays, encodings, st.integers(0, 2))
def test_integers_are_those_of_onnx_runtime_per_channel(
    x: np.ndarray, encoding: Encoding, axis: int
) -> None:
    axis = axis % x.ndim
    assert_same_as_runtime(x, parameters(*ranges_of(x, axis), encoding, axis=axis))


@settings(max_examples=100, deadline=None)
@given(arrays, encodings, st.integers(0, 2), st.integers(1, 5))
def test_integers_are_those_of_onnx_runtime_per_block(
    x: np.ndarray, encoding: Encoding, axis: int, block: int
) -> None:
    axis = axis % x.ndim
    found = parameters(*ranges_of(x, axis, block), encoding, axis=axis, block_size=block)
    assume(found.scale.size > 1)  # ONNX Runtime takes a single scale for one of the whole tensor
    assert_same_as_runtime(x, found)


def test_ties_round_to_even_and_values_saturate() -> None:
    params = QuantizationParameters(np.array(1, np.float32), np.array(10, np.uint8))
    x = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf], np.float32)
    assert quantize(x, params).tolist() == [10, 12, 12, 10, 255, 0, 255, 0]
    assert_same_as_runtime(x, params)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), encodings)
def test_zero_is_exact_and_errors_are_half_a_step(
    low: float, width: float, encoding: Encoding
) -> None:
    params = parameters(low, low + width, encoding)
    assert dequantize(quantize(np.zeros(3, np.float32), params), params).tolist() == [0, 0, 0]
    x = np.linspace(low, low + width, 50).astype(np.float32)
    error = np.abs(dequantize(quantize(x, params), params) - x)
    # The zero point is rounded as well, so that the ends may be off by another half.
    assert (error <= params.scale * 1.01 + np.abs(x) * 1e-6).all()


@pytest.mark.parametrize(
    ("encoding", "bounds"),
    [
        (Encoding("int8"), (-128, 127)),
        (Encoding("int8", symmetric=True), (-127, 127)),
        (Encoding("uint8", reduce_range=True), (0, 127)),
        (Encoding("int8", symmetric=True, reduce_range=True), (-63, 63)),
        (Encoding("uint8", symmetric=True), (1, 255)),
        (Encoding("uint16"), (0, 65535)),
    ],
)
def test_bounds_follow_from_the_encoding(encoding: Encoding, bounds: tuple[int, int]) -> None:
    assert encoding.bounds == bounds


def test_symmetric_unsigned_has_its_zero_in_the_middle() -> None:
    assert parameters(-1.0, 3.0, Encoding("uint8", symmetric=True)).zero_point == 128


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_refuses_ranges_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidInputError, match="finite"):
        parameters(*ends, Encoding())


def test_bias_saturates_and_its_smallest_scale_avoids_that() -> None:
    bias = np.array([1e9, -3.0], np.float32)
    assert quantize_bias(bias, np.array([1e-9, 1.0])).tolist() == [2**31 - 1, -3]
    fits = quantize_bias(bias, smallest_bias_scale(bias))
    assert np.abs(fits.astype(np.int64)).max() < 2**31 - 2

"""`UseSignedWeights`: quantized weights in the type that the target multiplies fast and exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.quantization.saturation import can_saturate
from onnxopt.passes.quantization.signed_weights import UseSignedWeights

RNG = np.random.default_rng(0)
X = {"sx": np.array(0.02, np.float32), "zx": np.array(7, np.uint8)}
SMALL = RNG.integers(-64, 65, (5, 4)).astype(np.int8)
LARGE = np.full((5, 4), 100, np.int8)
NODES = (
    "d = DequantizeLinear(x, sx, zx) k = DequantizeLinear <axis = 1> (w, sw, zw) y = MatMul(d, k)"
)
EXPECT = ["DequantizeLinear", "DequantizeLinear", "MatMul"]
SCALES = np.array([0.01, 0.02, 0.005, 0.03], np.float32)
BEFORE_VNNI = {"products_saturate": True}


def unsigned(weights: np.ndarray) -> np.ndarray:
    return (weights.astype(np.int16) + 128).astype(np.uint8)


def matmul(w: np.ndarray, zw: np.ndarray) -> ir.Model:
    weights = X | {"w": w, "sw": SCALES, "zw": zw}
    return parse_model(f"g (uint8[N, 5] x) => (float[N, 4] y) {{ {NODES} }}", weights)


def stored(model: ir.Model, dtype: ir.DataType, size: int) -> np.ndarray:
    (found,) = [
        value.const_value.numpy()
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.dtype == dtype and value.const_value.size == size
    ]
    return found


@pytest.mark.parametrize("zero", [128, 100])
def test_unsigned_weights_become_signed(zero: int) -> None:
    model = matmul(unsigned(LARGE), np.full(4, zero, np.uint8))
    assert_rewrites(UseSignedWeights(), model, expect=EXPECT, rewrites=1, rtol=0, atol=0)
    np.testing.assert_array_equal(stored(model, ir.DataType.INT8, 20), LARGE)
    np.testing.assert_array_equal(stored(model, ir.DataType.INT8, 4), np.full(4, zero - 128))


def test_zero_point_that_was_left_out_is_written() -> None:
    model = parse_model(
        """g (uint8[N, 5] x) => (float[N, 4] y) { d = DequantizeLinear(x, sx, zx)
        k = DequantizeLinear(w, sw) y = MatMul(d, k) }""",
        X | {"w": unsigned(SMALL), "sw": np.array(0.01, np.float32)},
    )
    assert_rewrites(UseSignedWeights(), model, expect=EXPECT, rewrites=1, rtol=0, atol=0)
    assert stored(model, ir.DataType.INT8, 1) == -128


def test_weights_stay_unsigned_when_they_could_saturate() -> None:
    zero = np.full(4, 128, np.uint8)
    assert_refuses(UseSignedWeights(**BEFORE_VNNI), matmul(unsigned(LARGE), zero), "could saturate")
    small = matmul(unsigned(SMALL), zero)
    assert_rewrites(
        UseSignedWeights(**BEFORE_VNNI), small, expect=EXPECT, rewrites=1, rtol=0, atol=0
    )


def test_signed_weights_that_could_saturate_become_unsigned_when_asked() -> None:
    assert not UseSignedWeights(**BEFORE_VNNI)(matmul(LARGE, np.zeros(4, np.int8))).modified
    avoiding = UseSignedWeights(**BEFORE_VNNI, avoid=True)
    assert not avoiding(matmul(SMALL, np.zeros(4, np.int8))).modified
    model = matmul(LARGE, np.zeros(4, np.int8))
    assert_rewrites(avoiding, model, expect=EXPECT, rewrites=1, rtol=0, atol=0)
    np.testing.assert_array_equal(stored(model, ir.DataType.UINT8, 20), np.full((5, 4), 228))


def test_shared_weights_are_stored_once_and_kept_for_other_readers() -> None:
    model = parse_model(
        """g (uint8[N, 5] x) => (float[N, 4] y, float[N, 4] v, float[5, 4] u)
        { d = DequantizeLinear(x, sx, zx) k = DequantizeLinear <axis = 1> (w, sw, zw)
          y = MatMul(d, k) l = DequantizeLinear <axis = 1> (w, sw, zw) v = MatMul(d, l)
          u = DequantizeLinear <axis = 1> (w, sw, zw) }""",
        X | {"w": unsigned(SMALL), "sw": SCALES, "zw": np.full(4, 128, np.uint8)},
    )
    assert_rewrites(UseSignedWeights(), model, expect=None, rewrites=2, rtol=0, atol=0)
    assert stored(model, ir.DataType.UINT8, 20).shape == (5, 4)
    stored(model, ir.DataType.INT8, 20)


def test_weights_in_a_subgraph_are_rewritten() -> None:
    model = parse_model(
        f"""g (uint8[N, 5] x, bool c) => (float[N, 4] r)
        <float[1] sx = {{0}}, uint8[1] zx = {{0}}, uint8[1] w = {{0}}, float[1] sw = {{0}},
         uint8[1] zw = {{0}}, float[1] other = {{0}}>
        {{ r = If (c) <
          then_branch = t () => (float[N, 4] y) {{ {NODES} }},
          else_branch = e () => (float[N, 4] v)
            {{ f = DequantizeLinear(x, sx, zx) v = MatMul(f, other) }}
        > }}""",
        X
        | {"w": unsigned(SMALL), "sw": SCALES, "zw": np.full(4, 128, np.uint8)}
        | {"other": np.ones((5, 4), np.float32)},
    )
    assert_rewrites(UseSignedWeights(), model, expect=["If"], rewrites=1, rtol=0, atol=0)


def test_stays_when_activations_are_float_or_weights_are_no_weights() -> None:
    weight_only = parse_model(
        """g (float[N, 5] d) => (float[N, 4] y)
        { k = DequantizeLinear <axis = 1> (w, sw, zw) y = MatMul(d, k) }""",
        {"w": unsigned(SMALL), "sw": SCALES, "zw": np.full(4, 128, np.uint8)},
    )
    computed = parse_model(
        f"g (uint8[N, 5] x, uint8[5, 4] w) => (float[N, 4] y) {{ {NODES} }}",
        X | {"sw": SCALES, "zw": np.full(4, 128, np.uint8)},
    )
    for model in (weight_only, computed):
        assert not UseSignedWeights()(model).modified


@pytest.mark.parametrize(
    ("pair", "saturates"), [((64, 64), False), ((64, 65), True), ((-64, -65), True)]
)
def test_neighbours_of_one_sign_saturate(pair: tuple[int, int], saturates: bool) -> None:
    column = np.array([[pair[0]], [pair[1]]], np.int8)
    assert can_saturate(column, 1) is saturates
    assert not can_saturate(column, 0)
    assert not can_saturate(np.array([[127], [-128]], np.int8), 1)
    # In a Conv, neighbours are those of the kernel or of the channels.
    for axis in (1, 3):
        kernel = np.zeros((1, 2, 1, 2), np.int8)
        kernel[tuple(slice(None) if i == axis else 0 for i in range(4))] = pair
        assert can_saturate(kernel, 0) is saturates

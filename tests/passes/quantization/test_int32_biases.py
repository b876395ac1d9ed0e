"""`QuantizeBiases`: float biases of quantized layers become int32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.graph.inference import infer_model
from onnxopt.passes.quantization.int32_biases import QuantizeBiases

RNG = np.random.default_rng(0)
X_SCALE = np.float32(0.02)
CONV = {
    "sx": np.array(X_SCALE),
    "zx": np.array(7, np.uint8),
    "w": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    "sw": np.array([0.01, 0.02, 0.005, 0.03], np.float32),
    "zw": np.zeros(4, np.int8),
    "b": np.array([0.5, -1.0, 2.0, 0.25], np.float32),
}
CONV_NODES = """d = DequantizeLinear(x, sx, zx) k = DequantizeLinear <axis = {axis}> (w, sw, zw)
y = Conv <pads = [1, 1, 1, 1]> (d, k, b)"""
# Half a step of the bias.
CONV_ATOL = float(0.5 * X_SCALE * 0.03)


def conv(axis: int = 0, **weights: np.ndarray) -> ir.Model:
    return parse_model(
        f"g (uint8[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {{ {CONV_NODES.format(axis=axis)} }}",
        CONV | weights,
    )


def gemm(options: str = "", w_shape: tuple[int, int] = (5, 4), axis: int = 1) -> ir.Model:
    weights = {
        **{name: CONV[name] for name in ("sx", "zx", "sw", "zw", "b")},
        "w": RNG.integers(-127, 128, w_shape).astype(np.int8),
    }
    return parse_model(
        f"""g (uint8[N, 5] x) => (float[N, 4] y) {{ d = DequantizeLinear(x, sx, zx)
        k = DequantizeLinear <axis = {axis}> (w, sw, zw) y = Gemm {options} (d, k, b) }}""",
        weights,
    )


FORM = ["DequantizeLinear", "DequantizeLinear", "DequantizeLinear"]


def matmul(shape: str, b: np.ndarray = CONV["b"]) -> ir.Model:
    """A MatMul with an Add, on inputs of `shape`."""
    weights = {
        **{name: CONV[name] for name in ("sx", "zx", "sw", "zw")},
        **{"b": b, "w": RNG.integers(-127, 128, (5, 4)).astype(np.int8)},
    }
    model = parse_model(
        f"""g (uint8[{shape}, 5] x) => (float[{shape}, 4] y) {{ d = DequantizeLinear(x, sx, zx)
        k = DequantizeLinear <axis = 1> (w, sw, zw) m = MatMul(d, k) y = Add(b, m) }}""",
        weights,
    )
    infer_model(model)
    return model


def stored_bias(model: ir.Model) -> ir.Value:
    (value,) = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT32]
    return value


def test_bias_is_int32_at_the_product_of_scales_when_conv_is_quantized() -> None:
    model = conv()
    expect = [*FORM, "Conv"]
    assert_rewrites(QuantizeBiases(), model, expect=expect, rewrites=1, rtol=1e-5, atol=CONV_ATOL)
    bias = stored_bias(model)
    assert bias.const_value is not None
    np.testing.assert_array_equal(
        bias.const_value.numpy(), np.rint(CONV["b"] / (X_SCALE * CONV["sw"])).astype(np.int32)
    )
    (dequantize,) = bias.consumers()
    assert dequantize.inputs[1] is not None
    assert dequantize.inputs[1].const_value is not None
    np.testing.assert_array_equal(dequantize.inputs[1].const_value.numpy(), X_SCALE * CONV["sw"])


def test_gemm_bias_is_quantized_when_weight_is_stored_either_way() -> None:
    for model in (gemm(), gemm("<transB = 1>", (4, 5), 0)):
        expect = [*FORM, "Gemm"]
        assert_rewrites(
            QuantizeBiases(), model, expect=expect, rewrites=1, rtol=1e-5, atol=CONV_ATOL
        )


@pytest.mark.parametrize("shape", ["N", "2, 3"])
def test_bias_added_to_a_product_is_quantized_when_both_become_gemm(shape: str) -> None:
    assert_rewrites(
        QuantizeBiases(),
        matmul(shape),
        expect=[*FORM[:2], "MatMul", "DequantizeLinear", "Add"],
        rewrites=1,
        rtol=1e-5,
        atol=CONV_ATOL,
    )


def test_bias_added_to_a_product_stays_when_no_gemm_is_made() -> None:
    # ONNX Runtime computes such a MatMul on integers, and the Add in float.
    assert not QuantizeBiases()(matmul("N, 3")).modified
    whole_matrix = matmul("2, 3", np.ones((3, 4), np.float32))
    assert not QuantizeBiases()(whole_matrix).modified


def test_refuses_when_integer_kernels_could_saturate() -> None:
    assert_refuses(QuantizeBiases(avoid_saturation=True), conv(), "could saturate")
    small = (CONV["w"] // 2).astype(np.int8)
    unsigned = (CONV["w"].astype(np.int16) + 128).astype(np.uint8)
    for model in (conv(w=small), conv(w=unsigned, zw=np.full(4, 128, np.uint8))):
        assert QuantizeBiases(avoid_saturation=True)(model).modified


def test_per_tensor_weight_scale_serves_every_channel() -> None:
    model = conv(sw=np.array(0.01, np.float32), zw=np.array(0, np.int8))
    assert_rewrites(
        QuantizeBiases(), model, expect=[*FORM, "Conv"], rewrites=1, rtol=1e-5, atol=CONV_ATOL
    )


def test_shared_bias_keeps_its_other_user() -> None:
    model = parse_model(
        f"""g (uint8[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y, float[4] z)
        {{ {CONV_NODES.format(axis=0)} z = Neg(b) }}""",
        CONV,
    )
    expect = [*FORM, "Conv", "Neg"]
    assert_rewrites(QuantizeBiases(), model, expect=expect, rewrites=1, rtol=1e-5, atol=CONV_ATOL)


def test_layer_in_a_subgraph_is_rewritten() -> None:
    model = parse_model(
        f"""g (uint8[N, 3, 6, 6] x, bool c) => (float[N, 4, 6, 6] r)
        <float[1] sx = {{0}}, uint8[1] zx = {{0}}, int8[1] w = {{0}}, float[1] sw = {{0}},
         int8[1] zw = {{0}}, float[1] b = {{0}}, float[1] other = {{0}}>
        {{ r = If (c) <
          then_branch = t () => (float[N, 4, 6, 6] y) {{ {CONV_NODES.format(axis=0)} }},
          else_branch = e () => (float[N, 4, 6, 6] v)
            {{ f = DequantizeLinear(x, sx, zx)
               v = Conv <pads = [1, 1, 1, 1]> (f, other) }}
        > }}""",
        CONV | {"other": np.ones((4, 3, 3, 3), np.float32)},
    )
    assert_rewrites(QuantizeBiases(), model, expect=["If"], rewrites=1, rtol=1e-5, atol=CONV_ATOL)


def test_dead_channel_gets_a_scale_at_which_its_bias_fits() -> None:
    weights = CONV["w"].copy()
    weights[1] = 0
    model = conv(w=weights, sw=np.array([0.01, 1e-9, 0.005, 0.03], np.float32))
    expect = [*FORM, "Conv"]
    assert_rewrites(QuantizeBiases(), model, expect=expect, rewrites=1, rtol=1e-5, atol=CONV_ATOL)


def test_refuses_when_bias_does_not_fit_int32() -> None:
    model = conv(sw=np.array([0.01, 1e-9, 0.005, 0.03], np.float32))
    assert_refuses(QuantizeBiases(), model, "does not fit int32")


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_bias_that_is_not_finite_is_not_hidden_in_integers(broken: float) -> None:
    bias = np.array([0.5, broken, 2.0, 0.25], np.float32)
    assert not QuantizeBiases()(conv(b=bias)).modified


def test_stays_when_there_is_nothing_to_quantize_it_with() -> None:
    no_data_scale = parse_model(
        """g (float[N, 3, 6, 6] d) => (float[N, 4, 4, 4] y)
        { k = DequantizeLinear <axis = 0> (w, sw, zw) y = Conv(d, k, b) }""",
        {name: CONV[name] for name in ("w", "sw", "zw", "b")},
    )
    other_axis = conv(axis=2, sw=np.array([0.1, 0.2, 0.3], np.float32), zw=np.zeros(3, np.int8))
    factors = gemm("<alpha = 0.5>")
    for model in (no_data_scale, other_axis, factors):
        assert not QuantizeBiases()(model).modified


def test_stays_when_bias_is_computed_or_opset_is_old() -> None:
    computed = parse_model(
        f"""g (uint8[N, 3, 6, 6] x, float[4] b) => (float[N, 4, 6, 6] y)
        {{ {CONV_NODES.format(axis=0)} }}""",
        {name: array for name, array in CONV.items() if name != "b"},
    )
    assert not QuantizeBiases()(computed).modified
    old = parse_model(
        """g (uint8[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y)
        { d = DequantizeLinear(x, sx, zx) k = DequantizeLinear(w, sw, zw) y = Conv(d, k, b) }""",
        CONV | {"sw": np.array(0.01, np.float32), "zw": np.array(0, np.int8)},
        opset=12,
    )
    assert not QuantizeBiases()(old).modified

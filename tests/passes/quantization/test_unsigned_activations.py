"""`UseUnsignedActivations`: int8 activations become uint8, exactly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.quantization.unsigned_activations import UseUnsignedActivations

WEIGHTS = {"s": np.array(0.01, np.float32), "z": np.array(-5, np.int8)}


def model_of(nodes: str, outputs: str = "float[N, 4] y", **options: object) -> ir.Model:
    return parse_model(f"g (float[N, 4] x) => ({outputs}) {{ {nodes} }}", WEIGHTS, **options)


@pytest.mark.parametrize("opset", [13, 21])
def test_pair_is_unsigned_with_equal_results(opset: int) -> None:
    model = model_of("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", opset=opset)
    expect = ["QuantizeLinear", "DequantizeLinear"]
    assert_rewrites(UseUnsignedActivations(), model, expect=expect, rewrites=1, rtol=0, atol=0)
    (zero,) = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.UINT8]
    assert zero.const_value is not None
    assert zero.const_value.numpy() == 123
    assert "z" not in model.graph.initializers


def test_every_reader_follows_when_there_are_two() -> None:
    model = model_of(
        """q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear(q, s, z)
        r = Relu(a) y = Add(r, b)"""
    )
    assert_rewrites(UseUnsignedActivations(), model, expect=None, rewrites=1, rtol=0, atol=0)
    assert len([v for v in model.graph.initializers.values() if v.dtype == ir.DataType.UINT8]) == 1


def test_per_channel_zero_points_are_shifted_one_by_one() -> None:
    model = parse_model(
        """g (float[N, 4] x) => (float[N, 4] y)
        { q = QuantizeLinear <axis = 1> (x, s, z) y = DequantizeLinear <axis = 1> (q, s, z) }""",
        {"s": np.full(4, 0.1, np.float32), "z": np.array([-128, 0, 5, 127], np.int8)},
    )
    assert_rewrites(UseUnsignedActivations(), model, expect=None, rewrites=1, rtol=0, atol=0)


def test_weight_that_shares_the_zero_point_stays_signed() -> None:
    model = parse_model(
        """g (float[N, 4] x) => (float[N, 3] y) { q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z) k = DequantizeLinear(w, s, z) y = MatMul(d, k) }""",
        WEIGHTS | {"w": np.arange(12, dtype=np.int8).reshape(4, 3)},
    )
    assert_rewrites(UseUnsignedActivations(), model, expect=None, rewrites=1, rtol=0, atol=0)
    assert model.graph.initializers["w"].dtype == ir.DataType.INT8
    assert "z" in model.graph.initializers


def test_pair_in_a_subgraph_is_rewritten() -> None:
    model = parse_model(
        """g (float[N, 4] x, bool c) => (float[N, 4] r)
        <float[1] s = {0}, int8[1] z = {0}>
        { r = If (c) <
        then_branch = t () => (float[N, 4] y)
          { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) },
        else_branch = e () => (float[N, 4] v) { v = Neg(x) } > }""",
        WEIGHTS,
    )
    assert_rewrites(UseUnsignedActivations(), model, expect=["If"], rewrites=1, rtol=0, atol=0)


def test_refuses_when_something_else_reads_the_integers() -> None:
    model = model_of(
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) k = Cast <to = 1> (q)",
        "float[N, 4] y, float[N, 4] k",
    )
    assert_refuses(UseUnsignedActivations(), model, "Cast reads the integers")


@pytest.mark.parametrize("largest", [64, 127])
def test_layer_that_could_saturate_keeps_its_activations_when_asked(largest: int) -> None:
    model = parse_model(
        """g (float[N, 4] x) => (float[N, 3] y) { q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z) k = DequantizeLinear(w, s) y = MatMul(d, k) }""",
        {**WEIGHTS, "w": np.full((4, 3), largest, np.int8)},
    )
    careful = UseUnsignedActivations(avoid_saturation=True)
    if largest == 64:
        assert_rewrites(careful, model, expect=None, rewrites=1, rtol=0, atol=0)
    else:
        assert_refuses(careful, model, "the weights of MatMul could saturate")


def test_stays_when_integers_are_an_output_or_unsigned_already() -> None:
    output = model_of(
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", "float[N, 4] y, int8[N, 4] q"
    )
    unsigned = parse_model(
        """g (float[N, 4] x) => (float[N, 4] y)
        { q = QuantizeLinear(x, s, u) y = DequantizeLinear(q, s, u) }""",
        {"s": WEIGHTS["s"], "u": np.array(3, np.uint8)},
    )
    computed = parse_model(
        """g (float[N, 4] x, int8 z) => (float[N, 4] y)
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""",
        {"s": WEIGHTS["s"]},
    )
    for model in (output, unsigned, computed):
        assert not UseUnsignedActivations()(model).modified

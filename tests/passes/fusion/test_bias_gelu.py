"""FuseBiasGelu: standard and runtime Gelus, and sums that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.fusion.bias_gelu import FuseBiasGelu

BIAS = np.random.default_rng(0).standard_normal(8).astype(np.float32)


def model_of(body: str, opset: int = 17, output: str = "", shape: str = "N,3,8") -> ir.Model:
    text = f"g (float[{shape}] x) => (float[{shape}] y{output}) {{ {body} }}"
    model = parse_model(text, {"b": BIAS} if "b)" in body or "(b" in body else {}, opset=opset)
    for node in model.graph:
        for value in node.outputs:
            value.dtype, value.shape = ir.DataType.FLOAT, model.graph.inputs[0].shape
    return model


@pytest.mark.parametrize(
    ("gelu", "opset", "fused"),
    [
        ("Gelu(s)", 20, "BiasGelu"),
        ('Gelu<approximate="tanh">(s)', 20, "FastGelu"),
        ("com.microsoft.Gelu(s)", 17, "BiasGelu"),
        ("com.microsoft.FastGelu(s)", 17, "FastGelu"),
    ],
)
@pytest.mark.parametrize("sum_", ["Add(x, b)", "Add(b, x)"])
def test_bias_becomes_an_input_of_the_gelu(gelu: str, opset: int, fused: str, sum_: str) -> None:
    model = model_of(f"s = {sum_} y = {gelu}", opset)
    expect = [f"com.microsoft.{fused}"]
    assert_rewrites(FuseBiasGelu(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_sum_stays_when_it_has_other_users() -> None:
    model = model_of("s = Add(x, b) y = com.microsoft.Gelu(s)", output=", float[N,3,8] s")
    assert_refuses(FuseBiasGelu(), model, "other users")


@pytest.mark.parametrize(
    "body",
    [
        "s = Add(x, x) y = com.microsoft.Gelu(s)",
        "y = com.microsoft.FastGelu(x, b)",
        "s = Add(x, b) y = com.microsoft.QuickGelu(s)",
    ],
)
def test_nothing_changes_when_there_is_no_bias_to_take(body: str) -> None:
    result = FuseBiasGelu()(model_of(body))
    assert not result.modified
    assert not result.refusals


def test_vector_stays_when_it_would_broadcast_the_value() -> None:
    assert not FuseBiasGelu()(
        model_of("s = Add(x, b) y = com.microsoft.Gelu(s)", shape="N,3,1")
    ).modified


def test_subgraph_is_rewritten() -> None:
    model = parse_model(
        """g (float[N,8] x, bool k) => (float[N,8] y) {
            y = If (k) <
                then_branch = t () => (float[N,8] p) {
                    s = Add(x, b) p = com.microsoft.FastGelu(s)
                },
                else_branch = e () => (float[N,8] q) { q = Relu(x) }
            >
        }""",
        {},
    )
    bias = ir.Value(
        name="b", shape=ir.Shape([8]), type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(BIAS, name="b"),
    )  # fmt: skip
    branch = next(iter(model.graph)).attributes["then_branch"].as_graph()
    branch[0].replace_input_with(1, bias)
    model.graph.register_initializer(bias)
    for node in branch:
        node.outputs[0].dtype = ir.DataType.FLOAT
    assert_rewrites(FuseBiasGelu(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)
    assert [node.op_type for node in branch] == ["FastGelu"]

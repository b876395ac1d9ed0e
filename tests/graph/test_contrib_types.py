"""Types of com.microsoft operators, compared with what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

from onnxopt.graph.inference import infer_model

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


W, V = floats(8, 8), floats(8)
SCALE, ZERO = np.float32(0.1), np.uint8(128)
Q8 = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
P = "scale, zero"
Q = "q = com.microsoft.QuantizeLinear(x, scale, zero)"
ON_FLOATS = [
    ("y = com.microsoft.Gelu(x)", {}),
    ("y = com.microsoft.FastGelu(x)", {}),
    ("y = com.microsoft.BiasGelu(x, v)", {"v": V}),
    ("y = com.microsoft.QuickGelu(x)", {}),
    ("y = com.microsoft.FusedMatMul(x, w)", {"w": W}),
    ("y = com.microsoft.FusedMatMul<transA=1, transB=1>(x, w)", {"w": floats(4, 6)}),
    ("y = com.microsoft.SkipLayerNormalization(x, x, v, v)", {"v": V}),
    ("t, , , y = com.microsoft.SkipLayerNormalization(x, x, v, v)", {"v": V}),
    ("t, , , y = com.microsoft.SkipSimplifiedLayerNormalization(x, x, v)", {"v": V}),
    ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s)",
     {"w": Q8.astype(np.int8), "s": np.float32(0.1)}),
    ("y = com.microsoft.MatMulNBits<K=8, N=3, bits=4, block_size=16>(x, w, s)",
     {"w": np.zeros((3, 1, 8), np.uint8), "s": np.ones(3, np.float32)}),
    ("y = com.microsoft.MultiHeadAttention<num_heads=2>(x, x, x)", {}),
    ("y = com.microsoft.Attention<num_heads=2>(x, w, v)", {"w": floats(8, 24), "v": floats(24)}),
    (f"{Q} y = com.microsoft.DequantizeLinear(q, scale, zero)", {}),
    (f"{Q} y = Identity(q)", {}),
    (f"{Q} y = com.microsoft.QLinearAdd(q, {P}, w, {P}, {P})",
     {"w": Q8[0]}),
    (f"{Q} y = com.microsoft.QLinearMul(q, {P}, w, {P}, {P})",
     {"w": Q8[0]}),
    (f"{Q} y = com.microsoft.QLinearSigmoid(q, {P}, {P})", {}),
    (f"{Q} y = com.microsoft.QLinearLeakyRelu(q, {P}, {P})", {}),
    (f"{Q} y = com.microsoft.QLinearSoftmax<axis=-1, opset=13>(q, {P}, {P})",
     {}),
    (f"{Q} y = com.microsoft.QLinearConcat<axis=1>({P}, q, {P}, q, {P})",
     {}),
    (f"{Q} y = com.microsoft.MatMulIntegerToFloat(q, w, scale, scale, zero, zero)",
     {"w": Q8}),
]  # fmt: skip


def _check(model: ir.Model, feeds: Mapping[str, Any]) -> None:
    inference = infer_model(model)
    (value,) = model.graph.outputs
    fact = inference.facts[value]
    value.type = ir.TensorType(ir.DataType(fact.dtype))
    (actual,) = run(model, feeds)
    assert value.dtype == ir.DataType.from_numpy(actual.dtype)
    assert fact.dims is not None
    sizes = {"B": 2, "S": 6, "2*S": 12}
    assert tuple(d if isinstance(d, int) else sizes[d] for d in fact.dims) == actual.shape


@pytest.mark.parametrize(("line", "weights"), ON_FLOATS)
def test_type_is_that_of_the_computed_value(line: str, weights: Mapping[str, Any]) -> None:
    quantized = {"scale": SCALE, "zero": ZERO} if "scale" in line else {}
    model = parse_model(f"g (float[B,S,8] x) => (y) {{ {line} }}", {**weights, **quantized})
    _check(model, {"x": floats(2, 6, 8)})


def test_embeddings_have_the_dimensions_of_ids_and_table() -> None:
    model = parse_model(
        """g (int32[B,S] i) => (y)
        { y, m = com.microsoft.EmbedLayerNormalization(i, , w, w, , v, v) }""",
        {"w": W, "v": V},
    )
    _check(model, {"i": np.zeros((2, 6), np.int32)})


def test_global_pool_leaves_ones() -> None:
    model = parse_model(
        """g (uint8[B,3,S,5] x) => (y)
        { y = com.microsoft.QLinearGlobalAveragePool(x, scale, zero, scale, zero) }""",
        {"scale": SCALE, "zero": ZERO},
    )
    _check(model, {"x": RNG.integers(0, 255, (2, 3, 6, 5)).astype(np.uint8)})


def test_declaration_is_kept_when_the_operator_is_not_in_the_table() -> None:
    model = parse_model(
        "g (float[B,8] x) => (float[B,3] y) { a = com.microsoft.Mystery(x) y = Relu(a) }"
    )
    value = model.graph[0].outputs[0]
    value.shape, value.type = ir.Shape(["B", 3]), ir.TensorType(ir.DataType.FLOAT)
    assert infer_model(model).dims(model.graph.outputs[0]) == ("B", 3)

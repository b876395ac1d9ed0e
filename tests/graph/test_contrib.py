"""Types and shapes of ONNX Runtime's operators, compared with what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import sympy  # type: ignore[import-untyped]
from helpers.rewriting import parse_model, run

from onnxopt.graph.contrib import _RULES, contrib_facts
from onnxopt.graph.facts import Fact
from onnxopt.graph.inference import infer_model
from onnxopt.graph.shape_rules import RuleInputs
from onnxopt.graph.symbolic import Symbols

RNG = np.random.default_rng(0)
SIZES = {"B": 2, "S": 6, "P": 5, "L": 3, "R": 4}


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


W, V = floats(8, 8), floats(8)
SCALE, ZERO = np.float32(0.1), np.uint8(128)
Q8 = RNG.integers(0, 255, (8, 8)).astype(np.uint8)
QUANTIZED = {"scale": SCALE, "zero": ZERO}
P = "scale, zero"
Q = "q = com.microsoft.QuantizeLinear(x, scale, zero)"
ON_FLOATS: list[tuple[str, Mapping[str, Any]]] = [
    ("y = com.microsoft.Gelu(x)", {}),
    ("y = com.microsoft.FastGelu(x)", {}),
    ("y = com.microsoft.BiasGelu(x, v)", {"v": V}),
    ("y = com.microsoft.QuickGelu(x)", {}),
    ("y = com.microsoft.ScaledSiLU(x)", {}),
    ("y = com.microsoft.Trilu(x)", {}),
    ("y = com.microsoft.Pad(x, pads)", {"pads": np.array([0, 1, 0, 0, 2, 3])}),
    ("y = com.microsoft.ExpandDims(x, axis)", {"axis": np.array(-2, np.int32)}),
    ("y = com.microsoft.GatherND(x, w)", {"w": np.array([[0, 1], [1, 2]])}),
    ("y = com.microsoft.FusedMatMul(x, w)", {"w": W}),
    ("y = com.microsoft.FusedMatMul<transA=1, transB=1>(x, w)", {"w": floats(4, 6)}),
    ("y = com.microsoft.FusedMatMul<transBatchA=1>(x, w)", {"w": floats(6, 8, 3)}),
    ("y = com.microsoft.TransposeMatMul<transA=1>(x, x)", {}),
    ("y = SimplifiedLayerNormalization<axis=-1>(x, v)", {"v": V}),
    ("y, s = SimplifiedLayerNormalization<axis=-1>(x, v)", {"v": V}),
    ("y = com.microsoft.SkipLayerNormalization(x, x, v, v)", {"v": V}),
    ("y, , , t = com.microsoft.SkipLayerNormalization(x, x, v, v)", {"v": V}),
    ("y, , , t = com.microsoft.SkipSimplifiedLayerNormalization(x, x, v)", {"v": V}),
    ("y = com.microsoft.DynamicQuantizeMatMul(x, w, s)",
     {"w": Q8.astype(np.int8), "s": np.float32(0.1)}),
    ("y = com.microsoft.MatMulNBits<K=8, N=3, bits=4, block_size=16>(x, w, s)",
     {"w": np.zeros((3, 1, 8), np.uint8), "s": np.ones(3, np.float32)}),
    ("y = com.microsoft.MatMulBnb4<K=8, N=4, block_size=16, quant_type=0>(x, w, s)",
     {"w": np.zeros(16, np.uint8), "s": np.ones(2, np.float32)}),
    (f"{Q} y = com.microsoft.DequantizeLinear(q, scale, zero)", {}),
    (f"{Q} y = Identity(q)", {}),
    (f"{Q} y = com.microsoft.QLinearAdd(q, {P}, w, {P}, {P})", {"w": Q8[0]}),
    (f"{Q} y = com.microsoft.QLinearMul(q, {P}, w, {P}, {P})", {"w": Q8[0]}),
    (f"{Q} y = com.microsoft.QLinearWhere(c, q, {P}, w, {P}, {P})",
     {"c": np.array([[True], [False]] * 3), "w": Q8[0]}),
    (f"{Q} y = com.microsoft.QLinearSigmoid(q, {P}, {P})", {}),
    (f"{Q} y = com.microsoft.QLinearLeakyRelu(q, {P}, {P})", {}),
    (f"{Q} y = com.microsoft.QLinearSoftmax<axis=-1, opset=13>(q, {P}, {P})", {}),
    (f"{Q} y = com.microsoft.QLinearConcat<axis=1>({P}, q, {P}, q, {P})", {}),
    (f"{Q} y = com.microsoft.MatMulIntegerToFloat(q, w, scale, scale, zero, zero)", {"w": Q8}),
]  # fmt: skip
ATTENTION: list[tuple[str, str, Mapping[str, Any]]] = [
    ("", "y, p = com.microsoft.Attention<num_heads=2>(x, w, v)",
     {"w": floats(8, 24), "v": floats(24)}),
    ("", "y = com.microsoft.Attention<num_heads=2, qkv_hidden_sizes=[4, 4, 6]>(x, w, v)",
     {"w": floats(8, 14), "v": floats(14)}),
    ("float[2,B,2,P,4] c", "y, p = com.microsoft.Attention<num_heads=2>(x, w, v, , c)",
     {"w": floats(8, 24), "v": floats(24)}),
    ("", "y = com.microsoft.MultiHeadAttention<num_heads=2>(x, x, x)", {}),
    ("float[B,L,8] k, float[B,L,6] u", "y = com.microsoft.MultiHeadAttention<num_heads=2>(x, k, u)",
     {}),
    ("float[B,2,L,4] k, float[B,2,L,4] u",
     "y = com.microsoft.MultiHeadAttention<num_heads=2>(x, k, u)", {}),
    ("float[B,2,P,4] c", "y, p, r = com.microsoft.MultiHeadAttention<num_heads=2>"
     "(x, x, x, , , , c, c)", {}),
    ("", "y, p, r = com.microsoft.MultiHeadAttention<num_heads=2>(x, x, x)", {}),
    ("float[B,1,2,P,16] c", "s = Shape<start=1, end=2>(x) t = Shape<start=3, end=4>(c) "
     "a = Add(s, t) total = Cast<to=6>(a) o = Sub(total, one) e = Shape<start=0, end=1>(x) "
     "ends = Expand(o, e) d = Squeeze(c, axis) "
     "y, p, r = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
     "(g, k, k, d, d, ends, total)",
     {"one": np.array([1], np.int32), "axis": np.array([1])}),
]  # fmt: skip


def check(
    inputs: str, line: str, weights: Mapping[str, Any], *, sizes: Mapping[str, int] = SIZES
) -> None:
    """Every output of the last node has the type and the shape that was inferred for it."""
    quantized = QUANTIZED if "scale" in line else {}
    names = line.rsplit(" = ", 1)[0].rsplit(")", 1)[-1].replace(" ", "").split(",")
    names = [name for name in names if name]
    model = parse_model(f"g ({inputs}) => ({', '.join(names)}) {{ {line} }}",
                        {**weights, **quantized})  # fmt: skip
    facts = infer_model(model).facts
    feeds: dict[str, Any] = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape or ()]
        assert value.dtype is not None
        drawn = RNG.random(shape) * 2
        feeds[str(value.name)] = drawn.astype(value.dtype.numpy())
    for value in model.graph.outputs:
        value.dtype = ir.DataType(facts[value].dtype)
    for value, actual in zip(model.graph.outputs, run(model, feeds), strict=True):
        fact = facts[value]
        assert value.dtype == ir.DataType.from_numpy(actual.dtype), value.name
        assert fact.dims is not None, value.name
        assert len(fact.dims) == actual.ndim
        for dim, size in zip(fact.dims, actual.shape, strict=True):
            # A size that no formula names has a symbol of its own.
            assert str(dim).startswith("unk__") or int(sympy.sympify(str(dim), sizes)) == size


@pytest.mark.parametrize(("line", "weights"), ON_FLOATS)
def test_type_is_that_of_the_computed_value(line: str, weights: Mapping[str, Any]) -> None:
    check("float[B,S,8] x", line, weights)


@pytest.mark.parametrize(("more", "line", "weights"), ATTENTION)
def test_attention_and_its_caches_have_the_computed_shapes(
    more: str, line: str, weights: Mapping[str, Any]
) -> None:
    inputs = "float[B,S,8] x"
    if "Group" in line:
        inputs += ", float[B,S,64] g, float[B,S,32] k"
        check(f"{inputs}, {more}", line, weights, sizes={**SIZES, "B": 1})
    else:
        check(inputs + f", {more}" * bool(more), line, weights)


I8 = RNG.integers(-9, 9, (8, 24)).astype(np.int8)
OTHERS: list[tuple[str, str, Mapping[str, Any]]] = [
    ("int32[B,S] i", "y, m = com.microsoft.EmbedLayerNormalization(i, , w, w, , v, v)",
     {"w": W, "v": V}),
    ("int32[B,S] i", "y, m, e = com.microsoft.EmbedLayerNormalization<mask_index_type=1>"
     "(i, i, w, w, w, v, v, i)", {"w": W, "v": V}),
    ("int32[B,S] i", "y, m = com.microsoft.QEmbedLayerNormalization"
     "(i, , w, w, , u, u, , s, s, , s, s, z, z, , z, z)",
     {"w": Q8, "u": Q8[0], "s": np.float32(0.1), "z": np.uint8(0)}),
    ("int64[B,S] i", "y = com.microsoft.GatherBlockQuantized"
     "<bits=4, block_size=16, gather_axis=0, quantize_axis=1>(w, i, s)",
     {"w": np.zeros((9, 8), np.uint8), "s": floats(9, 1)}),
    ("float[B,2,S,4] x, int64[B,S] p", "y = com.microsoft.RotaryEmbedding(x, p, c, c)",
     {"c": floats(9, 2)}),
    ("float[B,3,S,7] x", "y = com.microsoft.FusedConv"
     '<activation="Relu", pads=[1, 0, 1, 0], strides=[2, 1]>(x, w)', {"w": floats(5, 3, 3, 2)}),
    ("float[B,3,7,9] x", 'y = com.microsoft.FusedConv<activation="Relu", auto_pad="SAME_UPPER", '
     "kernel_shape=[3, 2], strides=[2, 2]>(x, w)", {"w": floats(5, 3, 3, 2)}),
    ("float[B,8] x", 'y = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, w)',
     {"w": floats(3, 8)}),
    ("uint8[B,8] x", f"y = com.microsoft.QGemm(x, {P}, w, {P}, , {P})", {"w": Q8[:, :3]}),
    ("uint8[B,8] x", f"y = com.microsoft.QGemm<transB=1>(x, {P}, w, {P})", {"w": Q8[:3]}),
    ("uint8[B,S,8] x", f"y = com.microsoft.QAttention<num_heads=2>(x, w, b, {P[:5]}, {P[:5]}, , "
     "zero, z)", {"w": I8, "b": floats(24), "z": np.int8(0)}),
    ("uint8[B,3,S,5] x", f"y = com.microsoft.QLinearGlobalAveragePool(x, {P}, {P})", {}),
    ("uint8[B,S,5,3] x", "y = com.microsoft.QLinearGlobalAveragePool<channels_last=1>"
     f"(x, {P}, {P})", {}),
    ("uint8[B,3,S,5] x", "y = com.microsoft.QLinearAveragePool"
     f"<kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 0]>(x, {P}, {P})", {}),
    ("uint8[B,S,5,3] x", "y = com.microsoft.QLinearAveragePool"
     f"<channels_last=1, kernel_shape=[2, 2]>(x, {P}, {P})", {}),
    ("uint8[B,9,S,3] x", f"y = com.microsoft.QLinearConv<channels_last=1>(x, {P}, w, {P}, {P})",
     {"w": RNG.integers(0, 255, (4, 3, 2, 3)).astype(np.uint8)}),
    ("uint8[B,S,5,3] x", "y = com.microsoft.NhwcMaxPool<kernel_shape=[2, 3], strides=[2, 1]>(x)",
     {}),
    ("float[B,3,S,5] x, float[R,4] r, int32[R] i", "y = com.microsoft.CropAndResize(x, r, i, s)",
     {"s": np.array([3, 2], np.int32)}),
    ("float[B,3,S,5] x, float[B,4,L,2] i", "y = com.microsoft.GridSample(x, i)", {}),
    ("float[B,3,3] x", "y = com.microsoft.Inverse(x)", {}),
    ("float[S] x", "y, i, n = com.microsoft.Unique(x)", {}),
    ("float[S,8] x, float[L,8] u", 'y = com.microsoft.CDist<metric="euclidean">(x, u)', {}),
    ("float[S,B,8] x", "y, h, c = com.microsoft.DynamicQuantizeLSTM<hidden_size=3, "
     'direction="bidirectional">(x, w, r, , , , , , s, z, s, z)',
     {"w": np.zeros((2, 8, 12), np.int8), "r": np.zeros((2, 3, 12), np.int8),
      "s": np.ones(2, np.float32), "z": np.zeros(2, np.int8)}),
    ("int16[S,8] x, int16[8,L] u", "y = com.microsoft.MatMulInteger16(x, u)", {}),
    ("int64[B,S] i, float[B,9] x", "y = com.microsoft.NGramRepeatBlock<ngram_size=2>(i, x)", {}),
    ("float[B,3,S,5] x", "y = com.microsoft.ConvTransposeWithDynamicPads(x, w, p)",
     {"w": floats(3, 4, 2, 2), "p": np.array([0, 0, 0, 0])}),
    ("float[S,8] x, float[S,4] r", "y = com.microsoft.MoE<k=1>(x, r, w, , w)",
     {"w": floats(4, 8, 8)}),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "line", "weights"), OTHERS)
def test_other_operators_have_the_computed_shapes(
    inputs: str, line: str, weights: Mapping[str, Any]
) -> None:
    check(inputs, line, weights)


WITHOUT_KERNEL = [
    ("float[B,S,2,3,4] x", "y, p, r = com.microsoft.MultiHeadAttention<num_heads=2>(x)",
     [("B", "S", 8), ("B", 2, "S", 4), ("B", 2, "S", 4)]),
    ("float[B,S,8] x, float[B,L,2,2,4] k",
     "y = com.microsoft.MultiHeadAttention<num_heads=2>(x, k)", [("B", "S", 8)]),
    ("float[B,1,24] x, float[B,2,P,4] c",
     "y, p = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads=2, "
     "past_present_share_buffer=1>(x, , , , , c, c)", [("B", 1, 8), ("B", 2, "P", 4)]),
    ("float[B,1,8] x, float[B,2,P,4] c",
     "y, p = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads=2>(x, x, x, , , c, c)",
     [("B", 1, 8), ("B", 2, "P + 1", 4)]),
    ("float[B,S,8] x, float[2,B,2,P,4] c, float[8,24] w",
     "y, p = com.microsoft.DecoderMaskedSelfAttention<num_heads=2, "
     "past_present_share_buffer=1>(x, w, w, , c)", [("B", "S", 8), (2, "B", 2, "P", 4)]),
    ("float[N,8] x, float[8,24] w, int32[B,S] o",
     "y = com.microsoft.PackedAttention<num_heads=2>(x, w, w, o, o)", [("N", 8)]),
    ("float[N,8] x, float[N,6] v, int32[B,S] o",
     "y = com.microsoft.PackedMultiHeadAttention<num_heads=2>(x, x, v, , o, o)", [("N", 6)]),
    ("float[N,2,3,4] x, int32[B,S] o",
     "y = com.microsoft.PackedMultiHeadAttention<num_heads=2>(x, , , , o, o)", [("N", 8)]),
    ("float[B,S,32] x, float[B,2,M,4] c, int32[B] e, int32 t",
     "y, p = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(x, , , c, c, e, t)",
     [("B", "S", 16), ("B", 2, None, 4)]),
    ("float[B,S,8] x, int32[B,S] o",
     "y, o1, o2, o3 = com.microsoft.RemovePadding(x, o)",
     [(None, 8), ("B", "S"), ("B + 1",), (1,)]),
    ("float[N,8] x, int32[B,S] o", "y = com.microsoft.RestorePadding(x, o)", [("B", "S", 8)]),
    ("float[9,4] x", "l = Shape<start=0, end=1>(x) y = com.microsoft.RelativePositionBias(x, l, l)",
     [(1, 4, 9, 9)]),
    ("float[B,S,8] x, float[8] v",
     "y = com.microsoft.GatedRelativePositionBias<num_heads=2>(x, v, v, v, v, v)",
     [("B", 2, "S", "S")]),
    ("float[B,S,9,8] x, float[8] v", "y = com.microsoft.GroupNorm<groups=2, activation=0>(x, v, v)",
     [("B", "S", 9, 8)]),
    ("float[B,S,9,8] x, float[8] v",
     "y, t = com.microsoft.SkipGroupNorm<groups=2, activation=0>(x, v, v, x)",
     [("B", "S", 9, 8), ("B", "S", 9, 8)]),
    ("uint8[B,3,S,5] x, float s, uint8 z",
     "y = com.microsoft.QLinearReduceMean<axes=[1, -1], keepdims=1>(x, s, z, s, z)",
     [("B", 1, "S", 1)]),
    ("uint8[B,3,S,5] x, float s, uint8 z",
     "y = com.microsoft.QLinearReduceMean<axes=[1], keepdims=0>(x, s, z, s, z)",
     [("B", "S", 5)]),
    ("float[B,S,8] x, float[8] v", "y = com.microsoft.BiasSplitGelu(x, v)", [("B", "S", 4)]),
    ("float[B,S,8] x", "y = com.microsoft.SwiGLU(x)", [("B", "S", 4)]),
    ("float[B,S,8] x, float[8] v", "y, m = com.microsoft.BiasDropout(x, v)",
     [("B", "S", 8), ("B", "S", 8)]),
    ("float[B,S,9] x", "y = com.microsoft.Rfft<signal_ndim=1>(x)", [("B", "S", 5, 2)]),
    ("float[B,S,5,2] x", "y = com.microsoft.Irfft<signal_ndim=1>(x)", [("B", "S", 8)]),
    ("float[B,S,7,3] x, float[4,3,2,2] w", "y = com.microsoft.NhwcFusedConv(x, w)",
     [("B", "S - 1", 6, 4)]),
    ("float[B,S,8] x, float[8,3] w", "y = com.microsoft.GemmFastGelu(x, w)", [("B", "S", 3)]),
    ("float[9,8] x, int64[B,S] i", "y = com.microsoft.TorchEmbedding(x, i)", [("B", "S", 8)]),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "line", "shapes"), WITHOUT_KERNEL)
def test_shapes_are_those_of_the_documentation_when_the_cpu_has_no_kernel(
    inputs: str, line: str, shapes: list[tuple[int | str | None, ...]]
) -> None:
    model = parse_model(f"g ({inputs}) => (float y) {{ {line} }}")
    inference = infer_model(model)
    node = model.graph[-1]
    for value, shape in zip(node.outputs, shapes, strict=False):
        dims = inference.facts[value].dims
        assert dims is not None
        assert value.dtype is not None
        known = tuple(None if str(dim).startswith("unk__") else dim for dim in dims)
        assert known == shape


def test_declaration_is_kept_when_the_operator_is_not_in_the_table() -> None:
    model = parse_model(
        "g (float[B,8] x) => (float[B,3] y) { a = com.microsoft.Mystery(x) y = Relu(a) }"
    )
    value = model.graph[0].outputs[0]
    value.shape, value.type = ir.Shape(["B", 3]), ir.TensorType(ir.DataType.FLOAT)
    assert infer_model(model).dims(model.graph.outputs[0]) == ("B", 3)


@pytest.mark.parametrize("op_type", sorted(_RULES))
def test_no_rule_stumbles_when_inputs_and_attributes_are_odd(op_type: str) -> None:
    """Files are untrusted, and what they get wrong is the runtime's to say."""
    odd = {
        "bits": 0, "axes": [7], "axis": 9, "strides": [0, 1], "kernel_shape": [2], "pads": [1],
        "qkv_hidden_sizes": [1], "num_heads": 0, "kv_num_heads": -1, "channels_last": 1,
    }  # fmt: skip
    for attributes in ({}, odd):
        node = ir.node(
            op_type, [ir.Value(name=name) for name in "abcdefghi"], attributes,
            domain="com.microsoft", num_outputs=4,
        )  # fmt: skip
        for fact in (None, Fact(0, None), Fact(1, ()), Fact(2, ("N",)), Fact(2, (0, 0, 0, 0))):
            inputs = RuleInputs(node, [fact] * 9, lambda index: None, Symbols(), 17)
            facts = contrib_facts(inputs)
            assert facts is not None
            assert len(facts) == 4

"""Types and shapes of the com.microsoft operators that exported and optimized files contain.

onnx has no schemas for them. Each entry names how the outputs follow from the inputs; an operator
that is not in the table keeps what the file declares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxopt.graph.facts import UNKNOWN, Fact
from onnxopt.graph.shape_rules import broadcast_dims
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.symbolic import add as add_dims
from onnxopt.graph.values import int_attribute

_FLOAT, _INT32 = ir.DataType.FLOAT.value, ir.DataType.INT32.value

Inputs = Sequence[Fact | None]
Rule = Callable[[ir.Node, Inputs, Symbols], list[Fact]]


def contrib_facts(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact] | None:
    """Facts of the outputs of a com.microsoft node, or None if the operator is not known."""
    rule = _RULES.get(node.op_type) if node.domain == "com.microsoft" else None
    if rule is None:
        return None
    facts = rule(node, inputs, symbols)
    return (facts + [UNKNOWN] * len(node.outputs))[: len(node.outputs)]


def _input(inputs: Inputs, index: int) -> Fact:
    fact = inputs[index] if index < len(inputs) else None
    return fact or UNKNOWN


def _same(index: int = 0) -> Rule:
    """The output is like one input."""
    return lambda node, inputs, symbols: [_input(inputs, index)]


def _broadcast(*indexes: int) -> Rule:
    """The output has the type of the first input and the broadcast shape of those listed."""

    def rule(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
        facts = [_input(inputs, index) for index in indexes]
        shapes = [fact.dims for fact in facts if fact.dims is not None]
        dims = broadcast_dims(shapes, symbols) if len(shapes) == len(facts) else None
        return [Fact(facts[0].dtype, dims)]

    return rule


def _normalized(sum_output: int, residual: bool = True) -> Rule:
    """Skip-normalizations: like the input; mean and deviation; the sum before normalizing."""

    def rule(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
        data = _input(inputs, 0)
        if not residual:
            return [data]
        facts = [data, UNKNOWN, UNKNOWN, UNKNOWN]
        facts[sum_output] = data
        return facts

    return rule


def _matmul(transposes: bool, dtype: int | None, second: int = 1) -> Rule:
    """`A x B` with broadcast batches; FusedMatMul has transpose attributes."""

    def rule(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
        a, b = _input(inputs, 0), _input(inputs, second)
        result = a.dtype if dtype is None else dtype
        if not a.dims or not b.dims or len(a.dims) < 2 or len(b.dims) < 2:
            return [Fact(result, None)]
        if transposes and any(int_attribute(node, f"transBatch{x}", 0) for x in "AB"):
            return [Fact(result, None)]
        rows = a.dims[-1] if transposes and int_attribute(node, "transA", 0) else a.dims[-2]
        columns = b.dims[-2] if transposes and int_attribute(node, "transB", 0) else b.dims[-1]
        batch = broadcast_dims([a.dims[:-2], b.dims[:-2]], symbols)
        return [Fact(result, (*batch, rows, columns))]

    return rule


def _gemm(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    a, b = _input(inputs, 0), _input(inputs, 3 if node.op_type == "QGemm" else 1)
    if not a.dims or not b.dims or len(a.dims) != 2 or len(b.dims) != 2:
        dims: tuple[Dim, ...] | None = None
    else:
        rows = a.dims[1 if int_attribute(node, "transA", 0) else 0]
        dims = (rows, b.dims[0 if int_attribute(node, "transB", 0) else 1])
    if node.op_type == "QGemm":
        # Without a scale for its output the result stays in float.
        quantized = len(inputs) > 7 and inputs[7] is not None
        return [Fact(a.dtype if quantized else _FLOAT, dims)]
    return [Fact(a.dtype, dims)]


def _matmul_n_bits(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    data = _input(inputs, 0)
    columns = int_attribute(node, "N", 0)
    return [Fact(data.dtype, None if not data.dims else (*data.dims[:-1], columns))]


def _attention(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    data, weights = _input(inputs, 0), _input(inputs, 1)
    sizes = node.attributes.get("qkv_hidden_sizes")
    hidden: Dim | None = None
    if sizes is not None:
        hidden = sizes.as_ints()[2]
    elif weights.dims is not None and len(weights.dims) == 2 and isinstance(weights.dims[1], int):
        hidden = weights.dims[1] // 3
    if data.dims is None or len(data.dims) != 3 or hidden is None:
        return [Fact(data.dtype, None), Fact(data.dtype, None)]
    return [Fact(data.dtype, (*data.dims[:2], hidden)), Fact(data.dtype, None)]


def _multi_head_attention(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    query, value = _input(inputs, 0), _input(inputs, 2)
    present = Fact(query.dtype, None)
    if query.dims is None or len(query.dims) != 3 or value.dims is None:
        return [Fact(query.dtype, None), present, present]
    if len(value.dims) == 3:
        hidden: Dim = value.dims[2]
    elif len(value.dims) == 4 and isinstance(value.dims[1], int) and isinstance(value.dims[3], int):
        hidden = value.dims[1] * value.dims[3]
    else:
        return [Fact(query.dtype, None), present, present]
    return [Fact(query.dtype, (*query.dims[:2], hidden)), present, present]


def _group_query_attention(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    query, past_key, past_value = (_input(inputs, i) for i in (0, 3, 4))
    packed = len(inputs) < 2 or inputs[1] is None
    dims = query.dims
    if packed and dims is not None:
        heads = int_attribute(node, "num_heads", 0)
        total = heads + 2 * int_attribute(node, "kv_num_heads", 0)
        width = dims[-1]
        exact = isinstance(width, int) and total and width % total == 0
        dims = (*dims[:-1], int(width) // total * heads) if exact else None
    presents = []
    for past in (past_key, past_value):
        grown = None
        if past.dims is not None and len(past.dims) == 4:
            grown = (*past.dims[:2], symbols.fresh(), past.dims[3])
        presents.append(Fact(past.dtype or query.dtype, grown))
    return [Fact(query.dtype, dims), *presents]


def _embed_layer_normalization(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    ids, table = _input(inputs, 0), _input(inputs, 2)
    known = ids.dims is not None and table.dims is not None and len(ids.dims) == 2
    dims = (*ids.dims, table.dims[1]) if known and ids.dims and table.dims else None
    mask = Fact(_INT32, None if not ids.dims else ids.dims[:1])
    return [Fact(table.dtype, dims), mask, Fact(table.dtype, dims)]


def _quantize(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    zero_point = _input(inputs, 2).dtype or ir.DataType.UINT8.value
    return [Fact(zero_point, _input(inputs, 0).dims)]


def _dequantize(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    return [Fact(_input(inputs, 1).dtype or _FLOAT, _input(inputs, 0).dims)]


def _global_pool(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    data = _input(inputs, 0)
    if data.dims is None or len(data.dims) < 3:
        return [Fact(data.dtype, None)]
    ones: tuple[Dim, ...] = (1,) * (len(data.dims) - 2)
    if int_attribute(node, "channels_last", 0):
        return [Fact(data.dtype, (data.dims[0], *ones, data.dims[-1]))]
    return [Fact(data.dtype, (*data.dims[:2], *ones))]


def _typed(index: int = 0) -> Rule:
    """Only the element type is known."""
    return lambda node, inputs, symbols: [Fact(_input(inputs, index).dtype, None)]


def _qlinear_concat(node: ir.Node, inputs: Inputs, symbols: Symbols) -> list[Fact]:
    # Inputs: scale and zero point of the output, then (tensor, scale, zero point) each.
    tensors = [_input(inputs, index) for index in range(2, len(inputs), 3)]
    dtype = _input(inputs, 1).dtype
    shapes = [fact.dims for fact in tensors if fact.dims]
    if not shapes or len(shapes) < len(tensors):
        return [Fact(dtype, None)]
    axis = int_attribute(node, "axis", 0) % len(shapes[0])
    total: Dim | None = 0
    for shape in shapes:
        total = None if total is None else add_dims(total, shape[axis])
    first = shapes[0]
    return [Fact(dtype, (*first[:axis], total or symbols.fresh(), *first[axis + 1 :]))]


_RULES: dict[str, Rule] = {
    "Attention": _attention,
    "BiasGelu": _same(),
    "BiasSplitGelu": _typed(),
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeMatMul": _matmul(transposes=False, dtype=_FLOAT),
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FastGelu": _same(),
    "FusedConv": _typed(),
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul(transposes=True, dtype=None),
    "FusedMatMulActivation": _matmul(transposes=True, dtype=None),
    "Gelu": _same(),
    "GroupQueryAttention": _group_query_attention,
    "LayerNormalization": _same(),
    "MatMulIntegerToFloat": _matmul(transposes=False, dtype=_FLOAT),
    "MatMulNBits": _matmul_n_bits,
    "MultiHeadAttention": _multi_head_attention,
    "NhwcFusedConv": _typed(),
    "QGemm": _gemm,
    "QLinearAdd": _broadcast(0, 3),
    "QLinearAveragePool": _typed(),
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _global_pool,
    "QLinearLeakyRelu": _same(),
    "QLinearMul": _broadcast(0, 3),
    "QLinearSigmoid": _same(),
    "QLinearSoftmax": _same(),
    "QuantizeLinear": _quantize,
    "QuickGelu": _same(),
    "RotaryEmbedding": _same(),
    "SimplifiedLayerNormalization": _same(),
    "SkipLayerNormalization": _normalized(sum_output=3),
    "SkipSimplifiedLayerNormalization": _normalized(sum_output=3),
}

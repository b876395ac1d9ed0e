"""Products of matrices: fused, transposed, quantized, and the recurrent layers made of them."""

from __future__ import annotations

from onnxopt.graph.contrib.rules import (
    FLOAT,
    INT32,
    FactRule,
    fact_of,
    named,
    same,
    shape_of,
    text_attribute,
)
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import Dims, RuleInputs, broadcast_dims
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute


def _matmul(*, like: int = 0, dtype: int | None = None) -> FactRule:
    """`A x B` with broadcast batches.

    Args:
        like: The input with the type of the output.
        dtype: The type of the output, whatever those of the inputs are.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        result = fact_of(inputs, like).dtype if dtype is None else dtype
        a, b = (_turned(inputs, index, letter) for index, letter in ((0, "A"), (1, "B")))
        if not a or not b:
            return [Fact(result, None)]
        rows = a[-2:-1] if len(a) > 1 else ()
        columns = b[-1:] if len(b) > 1 else ()
        batch = broadcast_dims([a[:-2], b[:-2]], inputs.symbols)
        return [Fact(result, (*batch, *rows, *columns))]

    return rule


def _turned(inputs: RuleInputs, index: int, letter: str) -> Dims | None:
    """An operand as the attributes `transBatchA` and `transA` turn it."""
    dims, node = inputs.dims(index), inputs.node
    if dims is None:
        return None
    if int_attribute(node, f"transBatch{letter}", 0) and len(dims) > 2:
        dims = (*dims[1:-1], dims[0], dims[-1])
    if int_attribute(node, f"trans{letter}", 0) and len(dims) > 1:
        dims = (*dims[:-2], dims[-1], dims[-2])
    return dims


def _gemm(second: int = 1) -> FactRule:
    """`A x B` of matrices."""

    def rule(inputs: RuleInputs) -> list[Fact]:
        a, b = shape_of(inputs, 0, 2), shape_of(inputs, second, 2)
        dims: Dims | None = None
        if a is not None and b is not None:
            rows = a[1 if int_attribute(inputs.node, "transA", 0) else 0]
            dims = (rows, b[0 if int_attribute(inputs.node, "transB", 0) else 1])
        dtype = fact_of(inputs, 0).dtype
        if inputs.node.op_type == "QGemm" and not inputs.has(7):
            dtype = FLOAT  # without a scale for its output the result stays in float
        return [Fact(dtype, dims)]

    return rule


def _wide(inputs: RuleInputs) -> list[Fact]:
    """The number of columns is an attribute."""
    data = fact_of(inputs, 0)
    columns = int_attribute(inputs.node, "N", 0)
    return [Fact(data.dtype, None if not data.dims else (*data.dims[:-1], columns))]


def _shaped(inputs: RuleInputs) -> list[Fact]:
    """The shape of the second operand is an input."""
    data, shape = fact_of(inputs, 0), inputs.elements(2)
    if not data.dims or shape is None or len(shape) != 2:
        return [Fact(data.dtype, None)]
    return [Fact(data.dtype, (*data.dims[:-1], inputs.named(shape[1])))]


def _lstm(inputs: RuleInputs) -> list[Fact]:
    """All states, the last one, and the last cell."""
    data, dtype = shape_of(inputs, 0, 3), fact_of(inputs, 0).dtype
    directions = 1 + (text_attribute(inputs.node, "direction", "forward") == "bidirectional")
    hidden = inputs.node.attributes.get("hidden_size")
    size: Dim | None = None if hidden is None else hidden.as_int()
    steps, batch, _ = data or (None, None, None)
    last = Fact(dtype, named(inputs, (directions, batch, size)))
    return [Fact(dtype, named(inputs, (steps, directions, batch, size))), last, last]


def _distance(inputs: RuleInputs) -> list[Fact]:
    a, b = shape_of(inputs, 0, 2), shape_of(inputs, 1, 2)
    counts = [None if dims is None else dims[0] for dims in (a, b)]
    return [Fact(fact_of(inputs, 0).dtype, named(inputs, counts))]


PRODUCT_RULES: dict[str, FactRule] = {
    "CDist": _distance,
    "DynamicQuantizeLSTM": _lstm,
    "DynamicQuantizeMatMul": _matmul(dtype=FLOAT),
    "FusedGemm": _gemm(),
    "FusedMatMul": _matmul(),
    "FusedMatMulActivation": _matmul(),
    "GemmFastGelu": _matmul(),
    "MatMulBnb4": _wide,
    "MatMulFpQ4": _shaped,
    "MatMulInteger16": _matmul(dtype=INT32),
    "MatMulIntegerToFloat": _matmul(like=2),
    "MatMulNBits": _wide,
    "MoE": same(),
    "QGemm": _gemm(second=3),
    "QMoE": same(),
    "TransposeMatMul": _matmul(),
}

"""What a model costs: floating-point operations per node, parameters and bytes of its tensors.

One multiply-accumulate counts as two operations, as in the literature on accelerators. Element-wise
operators count one operation per output element; data movement counts none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import dims, int_attribute

# Operators that move or make data; they compute nothing.
_FREE = frozenset(
    (
        "Cast",
        "CastLike",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "Dropout",
        "EyeLike",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "If",
        "Loop",
        "NonZero",
        "OneHot",
        "Pad",
        "Range",
        "Reshape",
        "Scan",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    )
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations of a graph, with symbolic dimensions counted as given sizes.

    Attributes:
        flops: Floating-point (or integer) operations.
        unknown: Nodes whose shapes are not known, not counted.
    """

    flops: int
    unknown: int


def model_cost(model: ir.Model, sizes: dict[str, int] | None = None) -> Cost:
    """Operations of one run of the main graph and of every subgraph, each counted once.

    Args:
        model: With inferred shapes.
        sizes: Symbol to size; symbols that are missing count as 1.
    """
    flops = 0
    unknown = 0
    for graph in all_graphs(model):
        for node in graph:
            cost = node_flops(node, sizes or {})
            if cost is None:
                unknown += 1
            else:
                flops += cost
    return Cost(flops, unknown)


def model_tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Initializers and the tensors of Constant nodes in all graphs, by value name."""
    tensors: dict[str, ir.TensorProtocol] = {}
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                tensors[name] = value.const_value
        for node in graph:
            if node.op_type != "Constant" or node.domain:
                continue
            attribute = node.attributes.get("value")
            if attribute is not None and not attribute.is_ref():
                tensors[node.outputs[0].name or ""] = attribute.as_tensor()
    return tensors


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of a model; those that share their memory count once."""
    return sum({id(tensor): tensor.nbytes for tensor in model_tensors(model).values()}.values())


def node_flops(node: ir.Node, sizes: dict[str, int]) -> int | None:
    """Operations of one node, or None if its shapes are not known."""
    if node.op_type in _FREE:
        return 0
    rule = _RULES.get(node.op_type)
    if rule is not None:
        return rule(node, sizes)
    return _elements(node.outputs[0] if node.outputs else None, sizes)


def _shape(value: ir.Value | None, sizes: dict[str, int]) -> tuple[int, ...] | None:
    known = dims(value)
    if known is None or None in known:
        return None
    return tuple(dim if isinstance(dim, int) else sizes.get(str(dim), 1) for dim in known)


def _elements(value: ir.Value | None, sizes: dict[str, int]) -> int | None:
    shape = _shape(value, sizes)
    return None if shape is None else math.prod(shape)


def _conv(node: ir.Node, sizes: dict[str, int]) -> int | None:
    """2 * output elements * (C_in / group) * kernel size."""
    output, weight = _elements(node.outputs[0], sizes), _shape(node.inputs[1], sizes)
    if output is None or weight is None:
        return None
    return 2 * output * math.prod(weight[1:])


def _conv_transpose(node: ir.Node, sizes: dict[str, int]) -> int | None:
    """2 * input elements * (C_out / group) * kernel size."""
    source, weight = _elements(node.inputs[0], sizes), _shape(node.inputs[1], sizes)
    if source is None or weight is None:
        return None
    return 2 * source * math.prod(weight[1:])


def _matmul(node: ir.Node, sizes: dict[str, int]) -> int | None:
    output, left = _elements(node.outputs[0], sizes), _shape(node.inputs[0], sizes)
    if output is None or not left:
        return None
    return 2 * output * left[-1]


def _gemm(node: ir.Node, sizes: dict[str, int]) -> int | None:
    output, left = _elements(node.outputs[0], sizes), _shape(node.inputs[0], sizes)
    if output is None or left is None or len(left) != 2:
        return None
    return 2 * output * left[0 if int_attribute(node, "transA", 0) else 1]


def _recurrent(node: ir.Node, sizes: dict[str, int]) -> int | None:
    """2 * sequence * batch * directions * gates * hidden * (input + hidden)."""
    source = _shape(node.inputs[0], sizes)
    weight, recurrence = _shape(node.inputs[1], sizes), _shape(node.inputs[2], sizes)
    if source is None or weight is None or recurrence is None:
        return None
    return 2 * source[0] * source[1] * (math.prod(weight) + math.prod(recurrence))


def _input_elements(node: ir.Node, sizes: dict[str, int]) -> int | None:
    return _elements(node.inputs[0] if node.inputs else None, sizes)


def _window(node: ir.Node, sizes: dict[str, int]) -> int | None:
    output = _elements(node.outputs[0], sizes)
    kernel = node.attributes.get("kernel_shape")
    if output is None or kernel is None:
        return None
    return output * math.prod(kernel.as_ints())


def _times(factor: int) -> Callable[[ir.Node, dict[str, int]], int | None]:
    def rule(node: ir.Node, sizes: dict[str, int]) -> int | None:
        elements = _input_elements(node, sizes)
        return None if elements is None else factor * elements

    return rule


_RULES: dict[str, Callable[[ir.Node, dict[str, int]], int | None]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "FusedConv": _conv,
    "QLinearConv": lambda node, sizes: _qlinear(node, sizes, conv=True),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "FusedMatMul": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": lambda node, sizes: _qlinear(node, sizes, conv=False),
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MaxPool": _window,
    "AveragePool": _window,
    "GlobalAveragePool": _input_elements,
    "GlobalMaxPool": _input_elements,
    "Softmax": _times(5),
    "LogSoftmax": _times(5),
    "LayerNormalization": _times(8),
    "BatchNormalization": _times(2),
    "InstanceNormalization": _times(8),
    **{
        f"Reduce{kind}": _input_elements
        for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare")
    },
}


def _qlinear(node: ir.Node, sizes: dict[str, int], *, conv: bool) -> int | None:
    """QLinear operators carry scale and zero point after each tensor: the weight is input 3."""
    output = _elements(node.outputs[0], sizes)
    operand = _shape(node.inputs[3] if conv else node.inputs[0], sizes)
    if output is None or not operand:
        return None
    return 2 * output * (math.prod(operand[1:]) if conv else operand[-1])

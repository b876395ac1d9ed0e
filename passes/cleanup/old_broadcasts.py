"""Broadcasting as opset 6 and older spell it, made explicit.

    Add<broadcast=1, axis=1>(x, b)  ->  Add<broadcast=1>(x, Unsqueeze<axes=[1, 2]>(b))

for x of rank 4 and b of rank 1: b is aligned at `axis`, not at the end. onnx's converter to opset 7
inserts one dimension too many there. Where a rank is not known the node is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.walking import all_graphs
from onnxopt.graph.inference import infer_model
from onnxopt.graph.values import int_attribute, rank

_NUMPY_OPSET = 7
_OPERATORS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"}
)


def align_old_broadcasts(model: ir.Model) -> int:
    """Aligns second operands in place, in subgraphs as well; returns how many there were."""
    if model.opset_imports.get("", 1) >= _NUMPY_OPSET:
        return 0
    nodes = [
        node
        for graph in all_graphs(model)
        for node in graph
        if not node.domain and node.op_type in _OPERATORS and "axis" in node.attributes
    ]
    if not nodes:
        return 0
    ranks = _inferred_ranks(model)
    names = Names(model)
    return sum(_align(node, ranks, names) for node in nodes)


def _inferred_ranks(model: ir.Model) -> dict[str, int | None]:
    """By name, for values whose shape is not declared; the model keeps what it declares."""
    copy = model.clone()
    infer_model(copy)
    values = (value for graph in all_graphs(copy) for node in graph for value in node.outputs)
    return {value.name or "": rank(value) for value in values}


def _align(node: ir.Node, ranks: Mapping[str, int | None], names: Names) -> bool:
    first, second = (
        ranks.get(value.name or "") if value is not None and value.shape is None else rank(value)
        for value in node.inputs
    )
    operand = node.inputs[1]
    if first is None or second is None or operand is None:
        return False
    axis = int_attribute(node, "axis", 0) % max(first, 1)
    missing = first - axis - second
    if missing > 0:
        made = ir.node(
            "Unsqueeze",
            [operand],
            {"axes": list(range(second, second + missing))},
            name=names.unique_node(f"{node.name or node.op_type}_Unsqueeze"),
        )
        made.outputs[0].name = names.unique(f"{operand.name}_aligned")
        made.outputs[0].type = operand.type
        if operand.shape is not None:
            made.outputs[0].shape = ir.Shape([*operand.shape, *[1] * missing])
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, made)
        node.replace_input_with(1, made.outputs[0])
    del node.attributes["axis"]
    return True

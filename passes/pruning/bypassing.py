"""Removing residual blocks: the entry of a block stands in for its end.

    s = x + f(x)   =>   s = Identity(x)

The Identity keeps the name of the end, so that values of both models can be compared by name;
cleanup removes it. A normalization that is fused with the sum and read beside it becomes one of the
entry. What only the branch needed goes, weights included.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.removal import drop_weight, remove_dead
from onnxopt.graph.inference import infer_model
from onnxopt.graph.residuals import SKIP_BIAS, Block

_NORMALIZATION = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}

_EPSILON = 1e-12  # of the fused operators, unless they have another


def bypass(model: ir.Model, blocks: Sequence[Block]) -> None:
    """Removes blocks from their model.

    Args:
        model: Changed in place; shapes are inferred anew.
        blocks: Blocks of it without an obstacle, in its order.
    """
    # The entry of a block may be the end of one that is gone already.
    nodes = [node for block in blocks for node in block.nodes]
    weights = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    current: dict[ir.Value, ir.Value] = {}
    for block in blocks:
        entry, last = current.get(block.entry, block.entry), block.end.producer()
        assert last is not None
        if last.outputs[0] is not block.end and _is_needed(last.outputs[0]):
            _replace(last.outputs[0], _normalization(last, entry), last)
        current[block.end] = _replace(block.end, ir.Node("", "Identity", [entry]), last)
    remove_dead(nodes)
    for value in weights:
        if value.is_initializer() and not value.is_graph_input():
            drop_weight(value)
    infer_model(model)


def _is_needed(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _normalization(skip: ir.Node, entry: ir.Value) -> ir.Node:
    """The normalization that is fused with a sum, of the entry alone."""
    given = skip.attributes.get("epsilon")
    epsilon = _EPSILON if given is None else given.as_float()
    # The bias behind scale and shift goes with the branch, as one in a Gemm or an Add does.
    return ir.Node(
        "",
        _NORMALIZATION[skip.op_type],
        [entry, *skip.inputs[2 : SKIP_BIAS[skip.op_type]]],
        [ir.AttrFloat32("epsilon", epsilon)],
    )


def _replace(value: ir.Value, node: ir.Node, before: ir.Node) -> ir.Value:
    """Puts a node in the place of what gives a value; the new value has its name."""
    new, name = node.outputs[0], value.name
    new.type, new.shape = value.type, value.shape
    value.name = f"{name}_before"
    new.name = name
    node.name = f"{before.name}_{node.op_type}"
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    assert isinstance(before.graph, ir.Graph)
    before.graph.insert_before(before, node)
    return new

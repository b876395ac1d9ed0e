"""One initializer for every use of a small weight, so that each can be sliced on its own.

    w -> Add, w -> Add   =>   w -> Add, w_1 -> Add     (the same tensor object, no copy)

Exporters and `DeduplicateInitializers` store equal biases and scales of unrelated layers once; left
shared, they would chain all these layers together. Large weights stay shared: a word embedding that
is also the output projection must stay one tensor. What subgraphs read stays shared, too.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.graph.constants import constant_tensor

LARGEST = 64 << 10


def unshare(model: ir.Model, names: Names) -> int:
    """Splits shared small weights of the main graph; Constant nodes become initializers.

    Returns:
        The number of initializers that were added.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type == "Constant" and not node.domain:
            _lift(graph, node)
    added = 0
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output():
            continue
        if tensor.nbytes > LARGEST and len(tensor.shape) > 1:
            continue
        uses = [use for use in value.uses() if use.node.graph is graph]
        # One use may keep the original, unless a subgraph reads it as well.
        for use in uses[1:] if len(uses) == len(value.uses()) else uses:
            copy = ir.Value(
                name=names.unique(value.name or ""),
                type=value.type,
                shape=value.shape,
                const_value=tensor,
            )
            graph.register_initializer(copy)
            use.node.replace_input_with(use.idx, copy)
            added += 1
    return added


def _lift(graph: ir.Graph, node: ir.Node) -> None:
    value = node.outputs[0]
    tensor = constant_tensor(node)
    if tensor is None or value.is_graph_output() or value.name is None:
        return
    lifted = ir.Value(
        name=value.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    value.replace_all_uses_with(lifted)
    graph.remove(node, safe=True)
    graph.register_initializer(lifted)

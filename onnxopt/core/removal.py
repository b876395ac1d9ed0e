"""Taking nodes out of a graph so that no value keeps a use from a node that is gone."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxopt.core.walking import subgraphs_of


def drop_weight(value: ir.Value) -> None:
    """Removes an initializer, or a Constant, that nobody reads and that is no graph output."""
    if value.uses() or value.is_graph_output():
        return
    producer = value.producer()
    if producer is not None and isinstance(producer.graph, ir.Graph):
        producer.graph.remove(producer)
    elif isinstance(value.graph, ir.Graph) and value.name:
        value.graph.initializers.pop(value.name, None)


def remove_node(node: ir.Node) -> list[ir.Node]:
    """Removes a node that nobody uses.

    The nodes inside its subgraphs are detached as well, or values of outer scopes would go on
    counting them as users.

    Returns:
        The producers that lost a user, each a candidate for removal or for another rewrite.
    """
    touched: dict[ir.Node, None] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        for graph in subgraphs_of(current):
            pending.extend(graph)
            graph.outputs.clear()
        for index, value in enumerate(current.inputs):
            if value is None:
                continue
            producer = value.producer()
            if producer is not None and producer.graph is not None:
                touched[producer] = None
            current.replace_input_with(index, None)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node)
    touched.pop(node, None)
    return list(touched)


def is_dead(node: ir.Node) -> bool:
    """True if no output of the node is used by a node or is an output of a graph."""
    return not any(value.uses() or value.is_graph_output() for value in node.outputs)


def remove_dead(candidates: Iterable[ir.Node]) -> tuple[list[ir.Node], list[ir.Node]]:
    """Removes those of `candidates` that are dead, and what becomes dead through that.

    Returns:
        The nodes removed, and the surviving producers that lost a user.
    """
    removed: list[ir.Node] = []
    survivors: dict[ir.Node, None] = {}
    pending = list(candidates)
    while pending:
        node = pending.pop()
        if node.graph is None:
            continue
        if not is_dead(node):
            survivors[node] = None
            continue
        survivors.pop(node, None)
        pending.extend(remove_node(node))
        removed.append(node)
    return removed, [node for node in survivors if node.graph is not None]

"""The nodes between paired values: what one model computes from what both have."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_ir as ir

from onnxopt.core.removal import remove_node
from onnxopt.core.walking import used_values

FED = "@fed"  # suffix of the graph input that takes the place of a value


@dataclasses.dataclass(frozen=True)
class Region:
    """What computes one value from others.

    Attributes:
        value: The value.
        nodes: Nodes on the way to it, the last one first.
        frontier: Computed values that it is made from, and graph inputs.
    """

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    frontier: tuple[ir.Value, ...]


def described(node: ir.Node) -> str:
    """A node for people: its operator and its name, or that of what it makes."""
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"


def find_region(value: ir.Value, known: Collection[str]) -> Region:
    """Walks back from a value to the values whose names are known, and to graph inputs."""
    nodes: dict[ir.Node, None] = {}
    frontier: dict[ir.Value, None] = {}
    producer = value.producer()
    pending = [] if producer is None else [producer]
    while pending:
        node = pending.pop()
        if node in nodes:
            continue
        nodes[node] = None
        for used in used_values(node):
            source = used.producer()
            if used.name in known or (source is None and used.is_graph_input()):
                frontier[used] = None
            elif source is not None:
                pending.append(source)
    return Region(value, tuple(nodes), tuple(frontier))


def cut(model: ir.Model, targets: Collection[str], known: Collection[str] = ()) -> ir.Model:
    """A copy that computes the targets from values that are fed under their name + `FED`.

    Args:
        model: Left as it is; weights are shared.
        targets: Names of the values to compute, the outputs of the copy.
        known: Names of the values to feed wherever they are read.
    """
    clone = model.clone()
    graph = clone.graph
    values = {value.name: value for node in graph for value in node.outputs}
    fed = []
    graph.outputs.clear()
    for name in known:
        value = values.get(name)
        if value is not None:
            stand_in = ir.Value(name=f"{name}{FED}", type=value.type)
            value.replace_all_uses_with(stand_in, replace_graph_outputs=True)  # of branches
            fed.append(stand_in)
    for name in targets:
        values[name].shape = None  # what a file declares may be wrong; ONNX Runtime finds out
        graph.outputs.append(values[name])
    needed: set[ir.Node] = set()
    for node in reversed(graph):
        if node in needed or any(value.is_graph_output() for value in node.outputs):
            needed.add(node)
            needed.update(p for v in used_values(node) if (p := v.producer()) is not None)
        else:
            remove_node(node)
    graph.inputs.extend(value for value in fed if value.uses())
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            if value.is_graph_input():  # ONNX Runtime would miss what it has dropped
                graph.inputs.remove(value)
            del graph.initializers[name]
    return clone

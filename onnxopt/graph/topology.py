"""Puts the nodes of a graph message into topological order, or names a cycle."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from onnxopt.core.errors import InvalidModelError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_SHOWN = 4


def sort_nodes(nodes: Sequence[NodeProto], where: str) -> list[int]:
    """An order of the nodes in which each comes after those that it uses, as old as possible.

    Args:
        nodes: The nodes of one graph, with whatever subgraphs they hold.
        where: What to call the graph in a message.

    Raises:
        InvalidModelError: There is none: some nodes form a cycle.
    """
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [{producers[name] for name in used_names(node) if name in producers} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(needs):
        for producer in needed:
            users[producer].append(index)
    missing = [len(needed) for needed in needs]
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if missing[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        blocked = next(index for index, count in enumerate(missing) if count)
        cycle = [describe(nodes[index]) for index in _cycle(blocked, needs, missing)]
        shown = " -> ".join((*cycle[:_SHOWN], "...") if len(cycle) > _SHOWN else cycle)
        raise InvalidModelError(f"{where} has a cycle of {len(cycle)} nodes: {shown} -> {cycle[0]}")
    return order


def used_names(node: NodeProto) -> Iterator[str]:
    """Names that a node reads from its own graph or further out, also inside its subgraphs."""
    yield from node.input
    # A subgraph may give a name of its own to what the graph around it has, too.
    pending: list[tuple[GraphProto, tuple[set[str], ...]]] = [
        (graph, (local_names(graph),)) for graph in subgraphs(node)
    ]
    while pending:
        graph, scopes = pending.pop()
        for inner in graph.node:
            yield from (name for name in inner.input if not any(name in own for own in scopes))
            pending += [(graph, (*scopes, local_names(graph))) for graph in subgraphs(inner)]


def local_names(graph: GraphProto) -> set[str]:
    """Names that a graph defines."""
    names = {value.name for value in graph.input}
    names.update(tensor.name for tensor in graph.initializer)
    for node in graph.node:
        names.update(node.output)
    return names


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Graphs in the attributes of a node."""
    found: list[GraphProto] = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found += attribute.graphs
    return found


def describe(node: NodeProto) -> str:
    """A node in a message: its name, or else its first output, and its operator."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if node.name:
        return f"{node.name!r} ({kind})"
    outputs = [name for name in node.output if name]
    return f"{kind} that makes {outputs[0]!r}" if outputs else kind


def _cycle(start: int, needs: Sequence[set[int]], missing: Sequence[int]) -> list[int]:
    """One cycle: every blocked node needs a blocked node, so following them must come round."""
    position: dict[int, int] = {}
    path: list[int] = []
    node = start
    while node not in position:
        position[node] = len(path)
        path.append(node)
        node = min(index for index in needs[node] if missing[index])
    return path[position[node] :][::-1]

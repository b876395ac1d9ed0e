"""Calls of model-local functions: they have to end, and to end soon.

Every reader inlines functions sooner or later. Functions that call each other without end can never
be inlined; sixty functions that each call the one before twice would become 2^60 nodes.
"""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.topology import subgraphs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Beyond any real model: the largest have some 100,000 nodes.
_MOST_NODES = 10_000_000

_Key = tuple[str, str, str]


def check_calls(model: ModelProto) -> None:
    """Makes sure that a model can be inlined.

    Raises:
        InvalidModelError: A function calls itself, directly or not, or the model would have more
            than ten million nodes.
    """
    if not model.functions:
        return
    bodies = {(f.domain, f.name, f.overload): _count(f.node) for f in model.functions}
    calls = {key: [other for other in body if other in bodies] for key, body in bodies.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(f"{domain}::{name}" for domain, name, _ in error.args[1])
        raise InvalidModelError(f"functions call each other without end: {cycle}") from error
    sizes: dict[_Key, int] = {}
    for key in order:
        sizes[key] = _inlined(bodies[key], sizes)
    size = _inlined(_count(model.graph.node), sizes)
    if size > _MOST_NODES:
        raise InvalidModelError(
            f"its functions call each other so often that it has {size:.2g} nodes once inlined"
        )


def _inlined(body: Counter[_Key], sizes: dict[_Key, int]) -> int:
    return sum(count * sizes.get(key, 1) for key, count in body.items())


def _count(nodes: Iterable[NodeProto]) -> Counter[_Key]:
    """How often each operator occurs, subgraphs included."""
    found: Counter[_Key] = Counter()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        found[node.domain, node.op_type, node.overload] += 1
        for graph in subgraphs(node):
            pending += graph.node
    return found

"""Names of values while the nodes of a graph are visited: defined once, before they are used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.topology import describe

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclasses.dataclass
class Scope:
    """What is known about the names of one graph while its nodes are visited.

    Attributes:
        where: What to call the graph in a message.
        known: Names defined so far.
        later: Names that nodes further down define.
        outer: The scope around a subgraph.
        unordered: True once a node used one of `later`.
    """

    where: str
    known: set[str]
    later: set[str]
    outer: Scope | None = None
    unordered: bool = False


def define(scope: Scope, name: str, by: NodeProto | str) -> None:
    """Adds a name.

    Raises:
        InvalidModelError: It is defined already, or is no text.
    """
    require_text(name, "a value's name")
    if name in scope.known:
        definer = f"an {by}" if isinstance(by, str) else f"node {describe(by)}"
        raise InvalidModelError(
            f"{scope.where} defines {name!r} twice; the second time as {definer}"
        )
    scope.known.add(name)


def resolve(name: str, scope: Scope | None) -> bool:
    """True if the name is defined here or further out; notes the use of a later name."""
    while scope is not None:
        if name in scope.known:
            return True
        if name in scope.later:
            scope.unordered = True
            return True
        scope = scope.outer
    return False


def outputs_of(nodes: Sequence[NodeProto]) -> set[str]:
    """Names that nodes define."""
    return {name for node in nodes for name in node.output if name}


def require_text(text: Any, what: str) -> None:
    """Raises for bytes, which protobuf hands out where a string is no valid UTF-8."""
    if text.__class__ is bytes:
        raise InvalidModelError(f"{what} is not valid UTF-8: {text[:60]!r}; the file is damaged")

"""How much of a pattern is in a graph, and at which node the rest of it fails.

A pattern is a tree: `Op("Div", x, Op("Sqrt", ...))`. Where a rewrite rule answers yes or no, this
counts the nodes that fit and says why the first other one does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.graph.values import constant

_COMMUTATIVE = frozenset(("Add", "Mul"))
_CLOSE = 1e-3  # exporters write constants in 16 bit as well


@dataclasses.dataclass(frozen=True)
class Anything:
    """Any value; the same one wherever the name is the same."""

    name: str


@dataclasses.dataclass(frozen=True)
class Number:
    """A constant with one element; of that value, if one is given."""

    value: float | None = None


@dataclasses.dataclass(frozen=True)
class Op:
    """A node of the default domain, one of several operators.

    Attributes:
        types: The operators, as "Div|Mul".
        inputs: Patterns of the first inputs; a node may have more.
    """

    types: str
    inputs: tuple[Pattern, ...]

    def size(self) -> int:
        """Nodes in the pattern; what is the same twice is one node."""
        return len(set(self._parts()))

    def _parts(self) -> Iterator[Op]:
        yield self
        for item in self.inputs:
            if isinstance(item, Op):
                yield from item._parts()


Pattern = Anything | Number | Op


def op(types: str, *inputs: Pattern) -> Op:
    """An `Op`."""
    return Op(types, inputs)


@dataclasses.dataclass(frozen=True)
class Match:
    """How far a pattern fits.

    Attributes:
        nodes: The nodes that fit, the root first.
        failure: Why the first part that does not fit does not; empty if all of it does.
        place: Name of the node concerned.
        bound: Values by name.
    """

    nodes: tuple[ir.Node, ...] = ()
    failure: str = ""
    place: str = ""
    bound: tuple[tuple[str, ir.Value], ...] = ()


def match_at(pattern: Op, node: ir.Node) -> Match:
    """The best match of a pattern with its root at a node."""
    if node.domain or node.op_type not in pattern.types.split("|"):
        return Match(failure=f"{node.op_type} is not {_words(pattern)}", place=node.name or "")
    found = [_inputs(pattern, node, order) for order in _orders(pattern, node)]
    return max(found, key=lambda match: (len(match.nodes), not match.failure))


def _orders(pattern: Op, node: ir.Node) -> Iterator[tuple[ir.Value | None, ...]]:
    wanted = len(pattern.inputs)
    given = tuple(node.inputs[:wanted]) + (None,) * (wanted - len(node.inputs))
    yield given
    if node.op_type in _COMMUTATIVE and wanted == 2:
        yield given[::-1]


def _inputs(pattern: Op, node: ir.Node, values: tuple[ir.Value | None, ...]) -> Match:
    nodes, bound = [node], dict[str, ir.Value]()
    failure, place = "", ""
    for wanted, value in zip(pattern.inputs, values, strict=True):
        part = _value(wanted, value, node)
        nodes += part.nodes
        for name, other in part.bound:
            if not part.failure and bound.setdefault(name, other) is not other:
                part = dataclasses.replace(
                    part,
                    failure=f"it reads {other.name!r} where {bound[name].name!r} is expected",
                    place=part.place or node.name or "",
                )
        if part.failure and not failure:
            failure, place = part.failure, part.place
    return Match(tuple(dict.fromkeys(nodes)), failure, place, tuple(bound.items()))


def _value(pattern: Pattern, value: ir.Value | None, user: ir.Node) -> Match:
    here = user.name or user.op_type
    if isinstance(pattern, Op):
        producer = None if value is None else value.producer()
        if producer is None:
            name = None if value is None else value.name
            return Match(failure=f"{name!r} is not made by {_words(pattern)}", place=here)
        return match_at(pattern, producer)
    if value is None:
        return Match(failure="an input is missing", place=here)
    if isinstance(pattern, Anything):
        return Match(bound=((pattern.name, value),))
    array = constant(value)
    if array is None:
        return Match(failure=f"{value.name!r} is not a constant", place=here)
    if array.size != 1:
        return Match(failure=f"{value.name!r} is not a single number", place=here)
    number = float(array.reshape(-1)[0])
    if pattern.value is not None and abs(number - pattern.value) > _CLOSE * abs(pattern.value):
        return Match(failure=f"{value.name!r} is {number:.6g}, not {pattern.value:g}", place=here)
    return Match()


def _words(pattern: Op) -> str:
    return " or ".join(pattern.types.split("|"))

"""Which value of one graph stands for which value of another.

1. By name: rewrites keep the name of the value that they replace, as do most other tools.
2. By the name and operator of the node, for tools that rename values only.
3. By structure, for tools that rename everything: the same operator on inputs that are paired.

Only values of the main graphs that are computed are paired. Whether two of them have the same shape
is seen when they are there.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.core.provenance import rules_of
from onnxopt.graph.values import constant

# Activations whose work the range of a QuantizeLinear can do.
_ABSORBED = frozenset({"Clip", "Relu"})


def pair_values(original: ir.Model, rewritten: ir.Model) -> dict[str, str]:
    """Name of a value of `rewritten` to the name of its like in `original`, in graph order."""
    return _Pairing(original, rewritten).run()


class _Pairing:
    def __init__(self, original: ir.Model, rewritten: ir.Model) -> None:
        self._original, self._rewritten = original, rewritten
        self._values = {value.name or "": value for value in _named(original)}
        self._nodes = {node.name: node for node in original.graph if node.name}
        self._names = {value.name or "" for value in _named(rewritten)}
        self._taken: set[ir.Value] = set()
        self._like: dict[ir.Value, ir.Value] = {}

    def run(self) -> dict[str, str]:
        for value in _named(self._rewritten):
            like = self._values.get(value.name or "")
            # Quantization may do the work of a Relu: what it gives stands for the value.
            dequantized = _dequantized(value)
            if like is not None and dequantized is not None and _dequantized(like) is None:
                value, like = dequantized, self._activated(like)
            self._pair(value, like)
        outputs, likes = self._rewritten.graph.outputs, self._original.graph.outputs
        if len(outputs) == len(likes):  # those of bodies are known by their position
            for value, like in zip(outputs, likes, strict=True):
                if value not in self._like:
                    self._pair(value, like)
        for node in self._rewritten.graph:
            # Where a rule of ours made a value under a new name, the original has none like it.
            if not rules_of(node) and any(self._open(value) for value in node.outputs):
                self._pair_outputs(node, self._namesake(node) or self._lookalike(node))
        return {
            value.name or "": (like.name or "")
            for node in self._rewritten.graph
            for value in node.outputs
            if (like := self._like.get(value)) is not None
            and like.producer() is not None
            and constant(value) is None
        }

    def _activated(self, like: ir.Value) -> ir.Value:
        """What a Relu or Clip makes of a value, if the rewritten model lacks it: a range did it."""
        users = like.consumers()
        if len(users) != 1 or users[0].op_type not in _ABSORBED or like.is_graph_output():
            return like
        made = users[0].outputs[0]
        return like if (made.name or "") in self._names else made

    def _open(self, value: ir.Value) -> bool:
        return bool(value.name) and value not in self._like

    def _pair(self, value: ir.Value, like: ir.Value | None) -> None:
        if like is not None and like not in self._taken:
            self._taken.add(like)
            self._like[value] = like

    def _pair_outputs(self, node: ir.Node, like: ir.Node | None) -> None:
        if like is not None:
            for value, other in zip(node.outputs, like.outputs, strict=False):
                if self._open(value):
                    self._pair(value, other)

    def _namesake(self, node: ir.Node) -> ir.Node | None:
        like = self._nodes.get(node.name or "")
        return like if like is not None and _same_operator(node, like) else None

    def _lookalike(self, node: ir.Node) -> ir.Node | None:
        """The node that does the same with the same inputs."""
        anchors = [self._like[v] for v in node.inputs if v is not None and v in self._like]
        if not anchors:
            return None
        for candidate in anchors[0].consumers():
            # Of several alike, as the projections of attention, the first one that is left.
            free = not any(value in self._taken for value in candidate.outputs)
            if (
                free
                and _same_operator(node, candidate)
                and all(
                    self._same_input(one, other)
                    for one, other in zip(node.inputs, candidate.inputs, strict=True)
                )
            ):
                return candidate
        return None

    def _same_input(self, value: ir.Value | None, like: ir.Value | None) -> bool:
        if value is None or like is None:
            return value is like
        if value in self._like:
            return self._like[value] is like
        # A weight that was renamed: its numbers are compared later, where they matter.
        return _is_weight(value) and _is_weight(like) and value.shape == like.shape


def _named(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from (value for value in node.outputs if value.name)


def _dequantized(value: ir.Value) -> ir.Value | None:
    """What all users of a value read instead of it, if that is the value in fewer bits."""
    users = value.consumers()
    if not users or value.is_graph_output() or value.producer() is None:
        return None
    if any(user.op_type != "QuantizeLinear" for user in users):
        return None
    readers = users[0].outputs[0].consumers()
    return next((r.outputs[0] for r in readers if r.op_type == "DequantizeLinear"), None)


def _same_operator(one: ir.Node, other: ir.Node) -> bool:
    return (one.domain, one.op_type, len(one.inputs)) == (
        other.domain,
        other.op_type,
        len(other.inputs),
    )


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() or (
        (node := value.producer()) is not None and node.op_type == "Constant"
    )

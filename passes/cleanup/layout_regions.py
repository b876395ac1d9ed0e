"""Which operators around the Transposes by one permutation work best on the other layout.

The assignment with the fewest Transposes is the minimum cut of a network; see `push_transposes`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import onnx_ir as ir

from onnxopt.graph.values import constant, opset_version, rank
from onnxopt.passes.cleanup.layouts import Flip, Perm, flip, inverse
from onnxopt.passes.cleanup.min_cut import UNLIMITED, Network
from onnxopt.passes.cleanup.transposes import permutation

FLIPPED, AS_IS = "flipped", "as is"


def transposes(graph: ir.Graph) -> Iterable[tuple[ir.Node, Perm]]:
    """The Transposes of a graph that move axes, with their permutations."""
    for node in graph:
        if is_transpose(node):
            perm = permutation(node)
            if perm is not None and perm != tuple(range(len(perm))):
                yield node, perm


def is_transpose(node: ir.Node) -> bool:
    """True for the standard operator."""
    return node.op_type == "Transpose" and not node.domain


class Region:
    """The operators around the Transposes by one permutation, and the layout of each.

    "As is" is the layout of Transpose(x, perm), "flipped" that of x. Transposes by `perm` lead into
    the region, those by its inverse out of it. If perm is its own inverse, the same Transpose does
    either: the values are then coloured with two layouts, and `side` is the one to look at.
    """

    def __init__(self, model: ir.Model, graph: ir.Graph, perm: Perm, side: bool) -> None:
        self.graph = graph
        self.perm = perm
        self._side = side
        self.inverse = inverse(perm)
        self._model = model
        self._flips: dict[ir.Node, Flip | None] = {}
        self.entries: set[ir.Node] = set()
        self.exits: set[ir.Node] = set()
        self.values: dict[ir.Value, None] = {}
        self.flipped: set[ir.Node] = set()

    def flip_of(self, node: ir.Node) -> Flip | None:
        """How the node works on the other layout; looked up once."""
        if node not in self._flips:
            inside = node.graph is self.graph
            version = opset_version(node, self._model)
            self._flips[node] = flip(node, self.perm, version) if inside else None
        return self._flips[node]

    def solve(self) -> int:
        """Finds the nodes to flip, and returns how many Transposes that saves."""
        self._find_roles()
        starts = [node.outputs[0] for node in self.entries]
        starts += [node.inputs[0] for node in self.exits if node.inputs[0] is not None]
        for start in starts:
            self.values.update(dict.fromkeys(self._connected(start, self.values)))
        network = Network()
        before = sum(self._add_value(network, value) for value in self.values)
        if not before:
            return 0
        cost, side = network.cut(FLIPPED, AS_IS)
        self.flipped = {node for node in side if isinstance(node, ir.Node)}
        return before - cost

    def _find_roles(self) -> None:
        """Which Transposes lead into the region, and which out of it."""
        own = [node for node, perm in transposes(self.graph) if perm == self.perm]
        if self.perm != self.inverse:
            others = [node for node, perm in transposes(self.graph) if perm == self.inverse]
            self.entries, self.exits = set(own), set(others)
            return
        colour: dict[ir.Value, bool] = {}
        for node in own:
            x, y = node.inputs[0], node.outputs[0]
            if x is None:
                continue
            if x not in colour:
                here = not colour[y] if y in colour else False
                colour.update(dict.fromkeys(self._connected(x, colour), here))
            colour.update(dict.fromkeys(self._connected(y, colour), not colour.get(x, False)))
            # A constant has no colour: it is transposed at no cost. Without a rank nothing is done.
            if y in colour and colour.get(x, not colour[y]) != colour[y]:
                (self.entries if colour[y] is self._side else self.exits).add(node)

    def _connected(self, start: ir.Value, seen: Container[ir.Value]) -> set[ir.Value]:
        """The values that get the same layout as `start` through nodes that can take either."""
        found: set[ir.Value] = set()
        pending: list[ir.Value | None] = [start]
        while pending:
            value = pending.pop()
            if value is None or value in seen or value in found:
                continue
            if rank(value) != len(self.perm) or constant(value) is not None:
                continue
            found.add(value)
            producer = value.producer()
            for node in (producer, *(user for user, _ in value.uses())):
                flip_ = None if node is None else self.flip_of(node)
                if node is not None and flip_ is not None and not flip_.leaves:
                    pending.extend(node.inputs[index] for index in flip_.operands)
                    pending.extend(node.outputs)
        return found

    def moves(self, node: ir.Node | None) -> bool:
        """True if the output of the node can be in either layout."""
        if node is None or node.graph is not self.graph:
            return False
        if is_transpose(node):
            return permutation(node) not in (None, self.perm, self.inverse)
        flip_ = self.flip_of(node)
        return flip_ is not None and not flip_.leaves

    def _add_value(self, network: Network, value: ir.Value) -> int:
        """Adds what a value costs, and returns what it costs as things are."""
        producer = value.producer()
        start: object = AS_IS
        if self.source_of(value) is not None:
            start = FLIPPED
        elif self.moves(producer):
            start = producer
        ends: set[object] = {AS_IS} if value.is_graph_output() else set()
        for user, index in value.uses():
            end = self.reader(user, index)
            if end is not None:
                ends.add(end)
        # One Transpose serves all readers in the other layout, hence the node in between.
        for end in ends:
            network.add((value, AS_IS), end, UNLIMITED)
            network.add(end, (value, FLIPPED), UNLIMITED)
        network.add(start, (value, AS_IS), 1)
        network.add((value, FLIPPED), start, 1)
        return int(start is FLIPPED or FLIPPED in ends)

    def reader(self, user: ir.Node, index: int) -> object | None:
        """The layout in which an input is read: one of the two, that of a node, or None (any)."""
        if user in self.exits:
            return FLIPPED
        if is_transpose(user) and user.graph is self.graph:
            # Any other Transpose reads both, at no cost: the permutations are composed.
            return None if self.moves(user) else AS_IS
        flip_ = self.flip_of(user)
        if flip_ is None or index not in flip_.operands:
            return AS_IS
        return None if flip_.leaves else user

    def source_of(self, value: ir.Value) -> ir.Value | None:
        """x, if the value is Transpose(x, perm)."""
        node = value.producer()
        return node.inputs[0] if node is not None and node in self.entries else None

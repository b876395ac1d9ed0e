"""Transposes move through the operators between them and cancel.

    Transpose(Relu(Transpose(x, p)), p^-1)       -> Relu(x)
    Transpose(Add(Transpose(x, p), c), p^-1)     -> Add(x, Transpose(c, p^-1))
    Transpose(Concat(Transpose(x, p), Transpose(y, p), axis=a), p^-1) -> Concat(x, y, axis=p[a])
    ReduceMean(Transpose(x, p), axes=A, keepdims=0)                   -> ReduceMean(x, axes=p[A])

A converter from channels-last frameworks leaves islands: operators between Transposes that could
as well work on the other layout. For every permutation p of the graph, each operator that can work
on either layout (see `layouts.flip`) gets one of them. A value that is made in one layout and
read in the other costs a Transpose; one that was transposed by p is free in both directions. The
assignment with the fewest Transposes is the minimum cut of a network with an edge for each such
cost, so that the number of Transposes never grows and a region is only touched if it falls.

Refused: nothing is reported, since a Transpose that stays is the rule. Constants are transposed at
once. Values that subgraphs read keep their layout; subgraphs are rewritten like the main graph.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any, ClassVar

import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import constant, opset_version, rank
from onnxopt.passes.cleanup.layouts import Flip, Perm, flip, flipped_constant, inverse
from onnxopt.passes.cleanup.min_cut import UNLIMITED, Network
from onnxopt.passes.cleanup.transposes import permutation

_FLIPPED, _AS_IS = "flipped", "as is"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushTransposes(Pass):
    """Moves Transposes through the operators between them where that makes them fewer."""

    name: ClassVar[str] = "push-transposes"

    def call(self, model: ir.Model) -> PassResult:
        """Goes over the permutations of each graph until none saves a Transpose."""
        rewrites: Counter[str] = Counter()
        names: Names | None = None
        for graph in list(all_graphs(model)):
            pending = _directions(graph)
            while pending:
                region = _Region(model, graph, *pending.pop())
                if not region.solve():
                    continue
                count = len(list(_transposes(graph)))
                names = names or Names(model)
                _Rewriter(region, names).run()
                saved = count - len(list(_transposes(graph)))
                rewrites["transpose"] += saved
                # What was done for one permutation can open the way for the others.
                pending = _directions(graph) if saved > 0 else pending
        return PassResult(model, rewrites)


def _transposes(graph: ir.Graph) -> Iterable[tuple[ir.Node, Perm]]:
    for node in graph:
        if _is_transpose(node):
            perm = permutation(node)
            if perm is not None and perm != tuple(range(len(perm))):
                yield node, perm


def _is_transpose(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and not node.domain


def _directions(graph: ir.Graph) -> list[tuple[Perm, bool]]:
    """Each permutation; those that undo themselves once for each of the two layouts."""
    perms = dict.fromkeys(perm for _, perm in _transposes(graph))
    return [
        (perm, side) for perm in perms for side in (False, True) if side or perm == inverse(perm)
    ]


class _Region:
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
        cost, side = network.cut(_FLIPPED, _AS_IS)
        self.flipped = {node for node in side if isinstance(node, ir.Node)}
        return before - cost

    def _find_roles(self) -> None:
        """Which Transposes lead into the region, and which out of it."""
        own = [node for node, perm in _transposes(self.graph) if perm == self.perm]
        if self.perm != self.inverse:
            others = [node for node, perm in _transposes(self.graph) if perm == self.inverse]
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
        if _is_transpose(node):
            return permutation(node) not in (None, self.perm, self.inverse)
        flip_ = self.flip_of(node)
        return flip_ is not None and not flip_.leaves

    def _add_value(self, network: Network, value: ir.Value) -> int:
        """Adds what a value costs, and returns what it costs as things are."""
        producer = value.producer()
        start: object = _AS_IS
        if self.source_of(value) is not None:
            start = _FLIPPED
        elif self.moves(producer):
            start = producer
        ends: set[object] = {_AS_IS} if value.is_graph_output() else set()
        for user, index in value.uses():
            end = self.reader(user, index)
            if end is not None:
                ends.add(end)
        # One Transpose serves all readers in the other layout, hence the node in between.
        for end in ends:
            network.add((value, _AS_IS), end, UNLIMITED)
            network.add(end, (value, _FLIPPED), UNLIMITED)
        network.add(start, (value, _AS_IS), 1)
        network.add((value, _FLIPPED), start, 1)
        return int(start is _FLIPPED or _FLIPPED in ends)

    def reader(self, user: ir.Node, index: int) -> object | None:
        """The layout in which an input is read: one of the two, that of a node, or None (any)."""
        if user in self.exits:
            return _FLIPPED
        if _is_transpose(user) and user.graph is self.graph:
            # Any other Transpose reads both, at no cost: the permutations are composed.
            return None if self.moves(user) else _AS_IS
        flip_ = self.flip_of(user)
        if flip_ is None or index not in flip_.operands:
            return _AS_IS
        return None if flip_.leaves else user

    def source_of(self, value: ir.Value) -> ir.Value | None:
        """x, if the value is Transpose(x, perm)."""
        node = value.producer()
        return node.inputs[0] if node is not None and node in self.entries else None


class _Rewriter:
    """Carries out the assignment of layouts that a region found."""

    def __init__(self, region: _Region, names: Names) -> None:
        self._region = region
        self._graph = region.graph
        self._perm, self._inverse = region.perm, region.inverse
        self._names = names
        # Values in the original layout, and where each is found in the other one.
        self._flipped: dict[ir.Value, ir.Value] = {}

    def run(self) -> None:
        """New nodes first, then the readers outside, then the old nodes go."""
        old = [node for node in self._graph if node in self._region.flipped]
        for value in self._region.values:
            source = self._region.source_of(value)
            if source is not None:
                self._flipped[value] = source
        for node in old:
            self._rebuild(node)
        place = {node: number for number, node in enumerate(self._graph)}
        values = [value for value in self._region.values if value in self._flipped]
        # The last first: a Transpose that goes hands its readers over to the value before it.
        values.sort(key=lambda value: _position(place, value.producer()), reverse=True)
        dead = [*old]
        for value in values:
            dead.extend(self._redirect(value))
        for node in old:
            for value in node.outputs:
                self._restore(node, value)
        producers = [value.producer() for value in values]
        remove_dead([*reversed(dead), *(node for node in producers if node is not None)])

    def _rebuild(self, node: ir.Node) -> None:
        """The node on the other layout, in front of the old one."""
        if node.op_type == "Transpose":
            perm, (x,) = [_perm_of(node)[axis] for axis in self._inverse], node.inputs
            assert x is not None
            if x in self._flipped:
                x, perm = self._flipped[x], [self._perm[axis] for axis in perm]
            made = self._transpose(x, perm)
            self._graph.insert_before(node, made)
        else:
            made = self._copy(node)
        record_rewrite([made], PushTransposes.name, [node])
        for before, after in zip(node.outputs, made.outputs, strict=True):
            after.type = before.type
            after.shape = _moved(before.shape, self._inverse)
            self._flipped[before] = after

    def _copy(self, node: ir.Node) -> ir.Node:
        flip_ = self._region.flip_of(node)
        assert flip_ is not None
        inputs = list(node.inputs)
        for index in flip_.operands:
            inputs[index] = self._other_layout(inputs[index], node)
        for index, array in flip_.constants.items():
            inputs += [None] * (index + 1 - len(inputs))
            inputs[index] = self._constant(array, node)
        attributes = dict(node.attributes)
        for name, value in flip_.attributes.items():
            attributes[name] = ir.convenience.convert_attribute(name, value)
        made = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes.values(),
            num_outputs=len(node.outputs),
            name=self._names.unique_node(node.name or node.op_type),
            metadata_props=dict(node.metadata_props),
        )
        for before, after in zip(node.outputs, made.outputs, strict=True):
            after.name = self._names.unique(f"{before.name}_flipped")
        self._graph.insert_before(node, made)
        return made

    def _other_layout(self, value: ir.Value | None, before: ir.Node) -> ir.Value:
        assert value is not None
        if value not in self._flipped:
            array = constant(value)
            if array is not None:
                self._flipped[value] = self._constant(flipped_constant(array, self._perm), before)
            else:
                made = self._transpose(value, self._inverse)
                # Right behind the producer, where all the readers are still to come.
                producer = value.producer()
                if producer is None or producer.graph is not self._graph:
                    self._graph.insert_before(self._graph[0], made)
                else:
                    self._graph.insert_after(producer, made)
                self._flipped[value] = made.outputs[0]
        return self._flipped[value]

    def _constant(self, array: NDArray[Any], node: ir.Node) -> ir.Value:
        name = self._names.unique(f"{node.outputs[0].name}_constant")
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def _transpose(self, x: ir.Value, perm: Iterable[int]) -> ir.Node:
        axes = tuple(perm)
        node = ir.node(
            "Transpose", [x], {"perm": axes}, name=self._names.unique_node(f"{x.name}_transpose")
        )
        record_rewrite([node], PushTransposes.name, [])
        node.outputs[0].name = self._names.unique(f"{x.name}_transposed")
        node.outputs[0].type = x.type
        node.outputs[0].shape = _moved(x.shape, axes)
        return node

    def _redirect(self, value: ir.Value) -> list[ir.Node]:
        """Gives the flipped value to the Transposes and the last readers of the old one."""
        replaced = []
        for user, index in list(value.uses()):
            if user in self._region.flipped or self._region.reader(user, index) is _AS_IS:
                continue
            flip_ = self._region.flip_of(user)
            if user.op_type == "Transpose":
                perm = tuple(self._perm[axis] for axis in _perm_of(user))
                new = self._flipped[value]
                if perm != tuple(range(len(perm))):
                    made = self._transpose(new, perm)
                    self._graph.insert_before(user, made)
                    new = made.outputs[0]
                replace_value(self._graph, user, user.outputs[0], new, self._names)
            elif flip_ is not None and flip_.leaves:
                made = self._copy(user)
                for old, new in zip(user.outputs, made.outputs, strict=True):
                    new.type, new.shape = old.type, old.shape
                    replace_value(self._graph, user, old, new, self._names)
            else:
                continue
            replaced.append(user)
        return replaced

    def _restore(self, node: ir.Node, value: ir.Value) -> None:
        """Transposes a flipped value back for those who read it as it was."""
        readers = {user for user, _ in value.uses()} - self._region.flipped
        readers = {user for user in readers if any(v.uses() for v in user.outputs) or _keeps(user)}
        if readers or value.is_graph_output():
            made = self._transpose(self._flipped[value], self._perm)
            self._graph.insert_before(node, made)
            replace_value(self._graph, node, value, made.outputs[0], self._names)


def _keeps(node: ir.Node) -> bool:
    return any(value.is_graph_output() for value in node.outputs)


def _perm_of(node: ir.Node) -> Perm:
    perm = permutation(node)
    assert perm is not None
    return perm


def _moved(shape: ir.Shape | None, perm: Iterable[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in perm])


def _position(place: Mapping[ir.Node, int], producer: ir.Node | None) -> int:
    return -1 if producer is None else place.get(producer, -1)

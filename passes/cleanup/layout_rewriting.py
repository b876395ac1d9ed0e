"""Carries out an assignment of layouts: operators move to the other layout, Transposes go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.graph.values import constant
from onnxopt.passes.cleanup.layout_regions import AS_IS, Region
from onnxopt.passes.cleanup.layouts import Perm, flipped_constant
from onnxopt.passes.cleanup.transposes import permutation


class Rewriter:
    """Carries out the assignment of layouts that a region found.

    Args:
        region: The region, solved.
        names: Names of the model.
        rule: What the new nodes are said to come from.
    """

    def __init__(self, region: Region, names: Names, rule: str) -> None:
        self._rule = rule
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
        record_rewrite([made], self._rule, [node])
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
        record_rewrite([node], self._rule, [])
        node.outputs[0].name = self._names.unique(f"{x.name}_transposed")
        node.outputs[0].type = x.type
        node.outputs[0].shape = _moved(x.shape, axes)
        return node

    def _redirect(self, value: ir.Value) -> list[ir.Node]:
        """Gives the flipped value to the Transposes and the last readers of the old one."""
        replaced = []
        for user, index in list(value.uses()):
            if user in self._region.flipped or self._region.reader(user, index) is AS_IS:
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

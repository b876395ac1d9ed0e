"""Tensors that are split into a sequence, only to be taken out of it again.

    s = SplitToSequence(x, [2, 3]), a = SequenceAt(s, 0), b = SequenceAt(s, -1)
        -> a, b = Split(x, [2, 3])
    s = SplitToSequence(x, 4), ...          parts of 4, the last may be smaller
        -> ... = Split(x, [4, 4, 2])
    s = SplitToSequence(x), a = SequenceAt(s, i)
        -> a = Gather(x, i)

The exporter of PyTorch writes `Tensor.split` so (the heads of GPT-2). ONNX Runtime copies every
part twice, and nothing else sees through a sequence. Sizes and places are constants.

Refused: a sequence that something else reads, too; places outside of it; parts of a size that does
not follow from a static axis, or thousands of them. Nodes of subgraphs are rewritten among
themselves.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import remove_dead
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import (
    constant,
    constant_ints,
    dims,
    int_attribute,
    opset_version,
    rank,
)

_RULE = "unpacked-sequence"
_SIZES_ARE_INPUTS = 13  # the opset since which Split takes them so
_MOST_PARTS = 4096  # each is a value; a declared shape may claim billions


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnpackSequences(Pass):
    """Replaces SplitToSequence and SequenceAt by Split or Gather."""

    name: ClassVar[str] = "unpack-sequences"

    def call(self, model: ir.Model) -> PassResult:
        """Looks at every SplitToSequence of all graphs."""
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        splits = [
            node
            for graph in all_graphs(model)
            for node in graph
            if node.op_type == "SplitToSequence" and not node.domain
        ]
        names = Names(model) if splits else None
        for node in splits:
            assert names is not None
            reason = _unpack(node, names, opset_version(node, model))
            if reason:
                refusals.append(Refusal(_RULE, node.name or "", reason))
            else:
                rewrites[_RULE] += 1
        return PassResult(model, rewrites, refusals)


def _unpack(node: ir.Node, names: Names, version: int) -> str:
    """Rewrites one split and its readers; the reason if they stay."""
    source, sequence = node.inputs[0], node.outputs[0]
    size = rank(source)
    readers = [use.node for use in sequence.uses()]
    if source is None or size is None or not readers:
        return "the rank of what is split is not known" if readers else "nothing reads it"
    if sequence.is_graph_output() or any(
        reader.op_type != "SequenceAt" or reader.graph is not node.graph for reader in readers
    ):
        return "something else reads the sequence, too"
    places = [constant_ints(reader.inputs[1]) for reader in readers]
    if any(place is None or len(place) != 1 for place in places):
        return "the place in the sequence is computed"
    numbers = [place[0] for place in places if place]
    axis = int_attribute(node, "axis", 0)
    if not -size <= axis < size:
        return f"a tensor of {size} dimensions has no axis {axis} to split"
    axis %= size
    shape = dims(source)
    length = None if shape is None else shape[axis]
    whole = length if isinstance(length, int) else None
    if len(node.inputs) < 2 or node.inputs[1] is None:
        if whole is not None and not _are_inside(numbers, whole):
            return f"a place outside of the {whole} parts is read"
        _gather(node, readers, numbers, axis, names)
        return ""
    sizes = _sizes(node, whole)
    if isinstance(sizes, str):
        return sizes
    if not _are_inside(numbers, len(sizes)):
        return f"a place outside of the {len(sizes)} parts is read"
    _split(node, readers, [number % len(sizes) for number in numbers], sizes, axis, names, version)
    return ""


def _are_inside(numbers: list[int], parts: int) -> bool:
    return all(-parts <= number < parts for number in numbers)


def _sizes(node: ir.Node, whole: int | None) -> list[int] | str:
    """Of the parts of an axis of so many positions; or why they are not known."""
    given = constant(node.inputs[1])
    if given is None or given.ndim > 1:
        return "the sizes of the parts are not known"
    if given.ndim == 1:
        count = given.size
        sizes = given.tolist()[:_MOST_PARTS]
    elif whole is None or given < 1:
        return "the sizes of the parts are not known"
    else:
        size = int(given)
        count = -(-whole // size)
        sizes = [min(size, whole - start) for start in range(0, whole, size)[:_MOST_PARTS]]
    if count > _MOST_PARTS:
        return f"it has {count} parts; up to {_MOST_PARTS} are unpacked"
    return "a part has a negative size" if min(sizes, default=0) < 0 else sizes


def _split(
    node: ir.Node,
    readers: list[ir.Node],
    numbers: list[int],
    sizes: list[int],
    axis: int,
    names: Names,
    version: int,
) -> None:
    inputs, attributes = [node.inputs[0]], [ir.AttrInt64("axis", axis)]
    if version < _SIZES_ARE_INPUTS:
        attributes.append(ir.AttrInt64s("split", sizes))
    else:
        inputs.append(_constant(node, np.array(sizes, np.int64), names))
    split = ir.Node("", "Split", inputs, attributes=attributes, num_outputs=len(sizes))
    split.name = names.unique_node(f"{node.name}_split")
    for output in split.outputs:
        output.name = names.unique(f"{node.outputs[0].name}_part")
        output.type = node.inputs[0].type if node.inputs[0] is not None else None
    _graph(node).insert_before(node, split)
    for reader, number in zip(readers, numbers, strict=True):
        _hand_over(reader, split.outputs[number], names)
    remove_dead([*readers, node])


def _gather(
    node: ir.Node, readers: list[ir.Node], numbers: list[int], axis: int, names: Names
) -> None:
    """Parts of one position each; without keepdims their axis goes."""
    shape = () if not int_attribute(node, "keepdims", 1) else (1,)
    for reader, number in zip(readers, numbers, strict=True):
        index = _constant(node, np.full(shape, number, np.int64), names)
        gather = ir.Node(
            "", "Gather", [node.inputs[0], index], attributes=[ir.AttrInt64("axis", axis)]
        )
        gather.name = names.unique_node(f"{reader.name}_gather")
        gather.outputs[0].name = names.unique(f"{reader.outputs[0].name}_part")
        _graph(node).insert_before(reader, gather)
        _hand_over(reader, gather.outputs[0], names)
    remove_dead([*readers, node])


def _hand_over(reader: ir.Node, part: ir.Value, names: Names) -> None:
    """Everything that reads an element of the sequence reads the part instead."""
    element = reader.outputs[0]
    if element.is_graph_output() and part.is_graph_output():
        # The part has the name of another output already.
        copy = ir.Node("", "Identity", [part])
        copy.name = names.unique_node(f"{reader.name}_copy")
        copy.outputs[0].name = names.unique(f"{element.name}_part")
        _graph(reader).insert_before(reader, copy)
        part = copy.outputs[0]
    part.type, part.shape = element.type, element.shape
    if element.is_graph_output():
        # Outputs keep their names.
        element.name, part.name = part.name, element.name
    element.replace_all_uses_with(part, replace_graph_outputs=True)


def _constant(node: ir.Node, array: np.ndarray, names: Names) -> ir.Value:
    name = names.unique(f"{node.outputs[0].name}_{'sizes' if array.size > 1 else 'place'}")
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=tensor.shape, const_value=tensor
    )
    _graph(node).register_initializer(value)
    return value


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph

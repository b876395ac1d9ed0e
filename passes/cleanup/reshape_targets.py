"""Targets of Reshape: written from shapes, or kept where they mean the same of another input.

An entry 0 copies the dimension of the input and -1 is what is left over. A symbol may stand for 0,
and runtimes cannot infer a -1 beside a dimension of 0.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import constant_ints, dims, int_attribute
from onnxopt.passes.cleanup.single_node import ints_parameter, producer_of

Dims = Sequence[int | str | None]


def reshape_target(
    source: Dims | None, wanted: Dims, never_zero: Collection[str] = ()
) -> tuple[int, ...] | None:
    """A constant target with which Reshape turns the shape `source` into `wanted`, or None.

    Args:
        source: Shape of the input; None if unknown.
        wanted: Shape of the output.
        never_zero: Symbols that are at least 1 wherever the model runs.
    """
    target: list[int] = []
    copied: list[str] = []
    for position, size in enumerate(wanted):
        if isinstance(size, int):
            if size == 0:
                return None
            target.append(size)
        elif size is not None and _size_at(source, position) == size:
            target.append(0)
            copied.append(size)
        elif -1 in target:
            return None
        else:
            target.append(-1)
    inferable = all(size in never_zero or symbolic.is_at_least(size, 1) for size in copied)
    return tuple(target) if inferable or -1 not in target else None


def symbols_beside_minus_one(node: ir.Node) -> set[str]:
    """The symbols of a Reshape's output beside a -1: the model fails already where one is 0."""
    target = ints_parameter(node, "shape", 1) if node.op_type == "Reshape" else None
    shape = dims(node.outputs[0])
    if target is None or shape is None or -1 not in target or len(target) != len(shape):
        return set()
    pairs = zip(shape, target, strict=True)
    return {size for size, entry in pairs if entry != -1 and isinstance(size, str)}


def means_the_same(node: ir.Node, x: ir.Value) -> bool:
    """True if the target of a Reshape says the same of `x` as of the Reshape's own input.

    That is so for every entry but a 0, which copies a dimension: of both the same one.
    """
    source, middle = dims(x), dims(node.inputs[0])
    nonzero = _nonzero_entries(node.inputs[1])
    if nonzero is None or int_attribute(node, "allowzero", 0) == 1:
        return False
    same = [
        (size := _size_at(source, place)) is not None and size == _size_at(middle, place)
        for place in range(len(nonzero))
    ]
    return all(map(operator.or_, nonzero, same))


def _nonzero_entries(target: ir.Value | None) -> list[bool] | None:
    """For each entry of a target whether it provably is no 0; None if their number is unknown."""
    known = constant_ints(target)
    if known is not None:
        return [entry != 0 for entry in known]
    producer = producer_of(target, "Concat", "Shape")
    if producer is not None and producer.op_type == "Concat":
        parts = [_nonzero_entries(part) for part in producer.inputs]
        return None if None in parts else [entry for part in parts for entry in part or ()]
    shape = None if producer is None else dims(producer.inputs[0])
    if producer is not None and shape is not None:
        start, end = int_attribute(producer, "start", 0), int_attribute(producer, "end", len(shape))
        return [dim is not None and symbolic.is_at_least(dim, 1) for dim in shape[start:end]]
    size = dims(target)
    return [False] * size[0] if size and isinstance(size[0], int) else None


def _size_at(shape: Dims | None, position: int) -> int | str | None:
    return None if shape is None or position >= len(shape) else shape[position]

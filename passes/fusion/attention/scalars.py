"""Integers that a graph computes from shapes, as numbers or symbols."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import constant, dims, int_attribute
from onnxopt.passes.cleanup.single_node import producer_of


def scalar(value: ir.Value | None) -> int | str | None:
    """What a computed integer with one element is: a number, a symbol, or None if unknown."""
    known = constant(value)
    if known is not None:
        return int(known.reshape(-1)[0]) if known.size == 1 and known.dtype.kind in "iu" else None
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return None
    if node.op_type in ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Cast"):
        return scalar(node.inputs[0])
    if node.op_type in ("Add", "Sub"):
        first, second = scalar(node.inputs[0]), scalar(node.inputs[1])
        if first is None or second is None:
            return None
        return (symbolic.add if node.op_type == "Add" else symbolic.sub)(first, second)
    if node.op_type == "Shape":
        part = _shape_of(node)
        return part[0] if part is not None and len(part) == 1 else None
    if node.op_type == "Gather":
        shape, index = producer_of(node.inputs[0], "Shape"), constant(node.inputs[1])
        part = None if shape is None else _shape_of(shape)
        if part is None or index is None or index.size != 1:
            return None
        place = int(index.reshape(-1)[0])
        return part[place] if -len(part) <= place < len(part) else None
    return None


def _shape_of(node: ir.Node) -> tuple[int | str | None, ...] | None:
    shape = dims(node.inputs[0])
    if shape is None:
        return None
    start = int_attribute(node, "start", 0)
    end = int_attribute(node, "end", len(shape))
    return shape[start:end]

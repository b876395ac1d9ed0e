"""Which values share a scale: what only moves values does not change it."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.calibrated import Range, Ranges
from onnxopt.graph.integer_kernels import activations_of
from onnxopt.graph.saturating import useful_range
from onnxopt.graph.values import constant
from onnxopt.passes.quantization.regions import Regions

# An input of a Concat that uses less of the common range loses more than a bit of its precision.
_LEAST_USED = 0.5


def shared_ranges(regions: Regions, ranges: Ranges) -> dict[ir.Value, Range]:
    """The range with which every value at a region's nodes is quantized."""
    parents: dict[ir.Value, ir.Value] = {}
    moved: set[ir.Value] = set()
    for node, part in regions.parts.items():
        output = regions.output(node)
        inputs = [node.inputs[i] for i in activations_of(node) if node.inputs[i] is not None]
        for value in (*inputs, output):
            if value is not None:
                parents.setdefault(value, value)
        if part == "copy":
            _join(parents, inputs[0], output)
            moved.add(output)
    for node in regions.parts:
        if node.op_type == "Concat":
            _join_inputs(node, regions, ranges, parents)
    hulls: dict[ir.Value, Range] = {}
    for value in parents:
        found = ranges.get(value.name or "")
        if value in moved or found is None:
            continue
        found = useful_range(value, found)
        root = _root(parents, value)
        low, high = hulls.get(root, found)
        hulls[root] = min(low, found[0]), max(high, found[1])
    return {
        value: hulls[_root(parents, value)] for value in parents if _root(parents, value) in hulls
    }


def _join_inputs(
    node: ir.Node, regions: Regions, ranges: Ranges, parents: dict[ir.Value, ir.Value]
) -> None:
    """Gives the inputs of a Concat the scale of its output, unless that is too coarse for them."""
    output = regions.output(node)
    common = ranges.get(output.name or "")
    if common is None:
        return
    for value in node.inputs:
        if value is None or constant(value) is not None:
            continue
        found = ranges.get(value.name or "")
        if found is not None and _width(found) >= _LEAST_USED * _width(common):
            _join(parents, value, output)


def _width(ends: Range) -> float:
    return max(ends[1], 0.0) - min(ends[0], 0.0)


def _root(parents: dict[ir.Value, ir.Value], value: ir.Value) -> ir.Value:
    while parents[value] is not value:
        parents[value] = parents[parents[value]]
        value = parents[value]
    return value


def _join(parents: dict[ir.Value, ir.Value], one: ir.Value | None, other: ir.Value) -> None:
    assert one is not None
    parents[_root(parents, one)] = _root(parents, other)

"""What the readers of a value can tell apart of its range."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxopt.graph.calibrated import Range

# sigmoid(8) = 0.9997, and x sigmoid(x) = -0.0027 at x = -8: an 8-bit step of either is larger.
_FLAT = 8.0
_HARD = 3.0  # HardSwish and HardSigmoid, as networks use them, are flat from here on


def useful_range(value: ir.Value, ends: Range) -> Range:
    """The part of a value's range in which its readers still change with it.

    What lies outside would only make steps coarser: an activation of -90 in front of a SiLU is as
    good as one of -8. A value with any other reader, or that is a graph output, keeps its range.

    Args:
        value: The value.
        ends: Its calibrated range.
    """
    if value.is_graph_output() or not value.uses():
        return ends
    low, high = math.inf, -math.inf
    for node, _ in value.uses():
        found = _sensitive(node, value)
        if found is None:
            return ends
        low, high = min(low, found[0]), max(high, found[1])
    clipped = max(ends[0], low), min(ends[1], high)
    return clipped if clipped[0] <= clipped[1] else ends


def _sensitive(node: ir.Node, value: ir.Value) -> Range | None:
    if node.domain:
        return None
    if node.op_type == "Sigmoid":
        return -_FLAT, _FLAT
    if node.op_type == "HardSwish":
        return -_HARD, math.inf
    if node.op_type == "HardSigmoid":
        slope, offset = slope_and_offset(node)
        return -offset / slope, (1 - offset) / slope
    if node.op_type == "Mul":
        gates = [gate for other in node.inputs if (gate := _gate_of(other, value)) is not None]
        return (gates[0][0], math.inf) if gates else None
    return None


def slope_and_offset(node: ir.Node) -> tuple[float, float]:
    """Of a HardSigmoid or HardSwish: the numbers a and b of clip(a x + b, 0, 1)."""
    if node.op_type == "HardSwish":
        return 1 / 6, 0.5
    found = (node.attributes.get(name) for name in ("alpha", "beta"))
    slope, offset = (None if attribute is None else attribute.as_float() for attribute in found)
    return 0.2 if slope is None else slope, 0.5 if offset is None else offset


def _gate_of(other: ir.Value | None, value: ir.Value) -> Range | None:
    """Where a gate that is made from the value, with which it is multiplied, changes with it."""
    producer = None if other is None else other.producer()
    if producer is None or not producer.inputs or producer.inputs[0] is not value:
        return None
    is_gate = producer.op_type in ("Sigmoid", "HardSigmoid")
    return _sensitive(producer, value) if is_gate else None

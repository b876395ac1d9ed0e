"""Which integers an input of unknown meaning may hold.

Below 4 and not negative, since they may index something or be a size; unless every operator on the
way only computes with them, where negative and larger ones show what small ones hide (a division
that rounds the other way, a dropped Abs, a narrower type).
"""

from __future__ import annotations

import onnx_ir as ir

# The first input goes on as an integer of the same kind.
_KEEPS_FIRST = frozenset(
    {
        *("Identity", "Neg", "Abs", "Sign", "Clip", "CumSum", "Div", "Mod", "Pad", "Split"),
        *("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Tile", "Slice"),
        *("ReduceSum", "ReduceMax", "ReduceMin", "Gather", "GatherElements", "GatherND"),
    }
)
_KEEPS_ALL = frozenset({"Add", "Sub", "Mul", "Min", "Max", "Sum", "Concat"})
# What comes out is no number that could be an index.
_ENDS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not"})
_DIVIDES = frozenset({"Div", "Mod"})
_SIGNED = frozenset({ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64})
_SMALL = (0, 3)
_DIVISOR = (1, 3)
_ANY = (-100, 100)
_MOST_STEPS = 500


def integer_range(value: ir.Value) -> tuple[int, int]:
    """The smallest and the largest integer to feed a graph input with."""
    computed = True
    seen = {value}
    todo = [value]
    steps = 0
    while todo:
        current = todo.pop()
        for node, position in current.uses():
            steps += 1
            if node.domain == "" and node.op_type in _DIVIDES and position == 1:
                return _DIVISOR  # integers divided by zero end the process
            kept = _goes_on(node, position)
            if kept is None or steps > _MOST_STEPS:
                computed = False
                continue
            for output in kept:
                if output not in seen:
                    seen.add(output)
                    todo.append(output)
    if not computed or value.dtype not in _SIGNED:
        return _SMALL
    return _ANY


def _goes_on(node: ir.Node, position: int) -> tuple[ir.Value, ...] | None:
    """Where the integers go on as such; None if the operator may index or measure with them."""
    if node.domain != "" or node.graph is None:
        return None
    op_type = node.op_type
    if op_type in _ENDS:
        return ()
    if op_type == "Cast":
        to = node.attributes["to"].as_int()
        # Of floats that were integers few know; a run that fails goes back to small ones.
        return tuple(node.outputs) if ir.DataType(to) in _SIGNED else ()
    if op_type in _KEEPS_ALL or (op_type in _KEEPS_FIRST and position == 0):
        return tuple(node.outputs)
    if op_type == "Where" and position > 0:
        return tuple(node.outputs)
    return None

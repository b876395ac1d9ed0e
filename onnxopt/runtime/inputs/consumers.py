"""Where a graph input ends up: the operators that read it, past those that only reshape it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir as ir

# These hand the elements of their first input on, perhaps in another shape, order or type.
_MOVES = frozenset(
    {
        *("Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"),
        *("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Tile", "Pad"),
        *("Slice", "Split", "Gather", "GatherND", "GatherElements"),
    }
)
# These keep shape and axes; their parameters are the other inputs.
_KEEPS_SHAPE = frozenset(
    {
        *("Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"),
        *("Add", "Sub", "Mul", "Div", "Sqrt", "Exp", "Log", "Abs", "Neg", "Not"),
        *("Relu", "Clip", "Sigmoid", "Tanh", "BatchNormalization"),
        *("Scaler", "Normalizer", "Imputer", "Binarizer"),
    }
)
_MOST_STEPS = 500


@dataclasses.dataclass(frozen=True)
class Consumer:
    """A node that reads a value, and the position it reads it at."""

    node: ir.Node
    position: int


def consumers(value: ir.Value, model: ir.Model) -> list[Consumer]:
    """The nodes that an input's elements reach, operators that only move elements included."""
    return list(_walk(value, model, _MOVES))


def shape_keeping_consumers(value: ir.Value, model: ir.Model) -> list[Consumer]:
    """The nodes that read the value in the shape that it has as an input."""
    return list(_walk(value, model, _KEEPS_SHAPE))


def _walk(start: ir.Value, model: ir.Model, through: frozenset[str]) -> Iterator[Consumer]:
    seen = {start}
    todo = [start]
    steps = 0
    while todo and steps < _MOST_STEPS:
        for node, position in todo.pop().uses():
            steps += 1
            yield Consumer(node, position)
            for following in _continuations(node, position, model, through):
                if following not in seen:
                    seen.add(following)
                    todo.append(following)


def _continuations(
    node: ir.Node, position: int, model: ir.Model, through: frozenset[str]
) -> Iterator[ir.Value]:
    """The values that hold the same elements after the node."""
    if node.op_type in through:
        if position == 0 or (node.op_type in ("Add", "Mul") and position == 1):
            yield from node.outputs
    elif node.op_type in ("Concat", "Max", "Min") or (node.op_type == "Where" and position > 0):
        if through is _MOVES:
            yield from node.outputs
    elif (function := model.functions.get(node.op_identifier())) is not None:
        yield from _at(function.inputs, position)
    elif node.op_type in ("Loop", "Scan"):
        body = node.attributes.get("body")
        if body is not None:
            yield from _at(body.as_graph().inputs, position)


def _at(values: Sequence[ir.Value], position: int) -> Iterator[ir.Value]:
    if position < len(values):
        yield values[position]

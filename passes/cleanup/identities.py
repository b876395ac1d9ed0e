"""Nodes whose output is one of their inputs, whatever the data.

    Identity(x), Dropout(x), Cast(x, to=dtype(x)), CastLike(x, like)   -> x
    Concat(x), Sum(x), Max(x), Min(x), Mean(x)                          -> x
    Transpose(x, perm=0..n-1), Unsqueeze(x, []), Flatten(x[a,b], 1)     -> x
    Not(Not(x)), Neg(Neg(x)), BitwiseNot(BitwiseNot(x))                 -> x
    Relu(y), Abs(y)            where y cannot be negative               -> y
    Ceil(y), Floor(y), Round(y) where y holds whole numbers             -> y
    SequenceAt(SequenceConstruct(a, b, ...), i)                         -> the i-th of them

y is known to be non-negative if an operator with such a range made it (Relu, Sigmoid, Softmax, Exp,
Sqrt, Abs, ...) and only operators that move or average data came after that.

Refused: a Dropout in training mode or whose mask is used; anything that would turn a graph input
or an initializer into a graph output, except where the node already is a plain Identity.
Reciprocal(Reciprocal(x)) is left alone, since it is not exact. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import (
    constant,
    constant_ints,
    int_attribute,
    ints_attribute,
    rank,
    static_dims,
)
from onnxopt.passes.cleanup.single_node import (
    Source,
    bypass_rules,
    has_input,
    ints_parameter,
    producer_of,
)

_NON_NEGATIVE = {
    *("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Sqrt", "Abs"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare"),
}
_KEEPS_SIGN = {
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
    *("Slice", "Gather", "Identity"),
}
_KEEPS_SIGNS = {"Concat", "Add", "Mul", "Max"}
_WHOLE = ("Ceil", "Floor", "Round")
# How far back the range of a value is followed.
_DEPTH = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveIdentities(RewritePass):
    """Removes Identity, inference Dropout, same-type Cast and others that return their input."""

    name: ClassVar[str] = "remove-identities"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type."""
        return bypass_rules(_SOURCES)


def _first_input(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0]


def _single_input(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node, version: int) -> ir.Value | str | None:
    if version < 7 and int_attribute(node, "is_test", 0) == 0:
        return "the Dropout of this opset trains unless is_test is set"
    if version >= 12 and has_input(node, 2):
        training = constant(node.inputs[2])
        if training is None or training.any():
            return "the Dropout may run in training mode"
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return "the mask of the Dropout is used"
    return node.inputs[0]


def _cast(node: ir.Node, version: int) -> ir.Value | None:
    x, to = node.inputs[0], node.attributes.get("to")
    # Opsets before 6 spell the type as a string.
    if x is None or to is None or to.type != ir.AttributeType.INT or to.is_ref():
        return None
    return x if x.dtype == to.as_int() else None


def _cast_like(node: ir.Node, version: int) -> ir.Value | None:
    x, like = node.inputs
    if x is None or like is None or x.dtype is None:
        return None
    return x if x.dtype == like.dtype else None


def _transpose(node: ir.Node, version: int) -> ir.Value | None:
    perm = ints_attribute(node, "perm")
    if perm is None:
        size = rank(node.inputs[0])
        return node.inputs[0] if size is not None and size < 2 else None
    return node.inputs[0] if perm == tuple(range(len(perm))) else None


def _unsqueeze(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0] if ints_parameter(node, "axes", 1) == () else None


def _squeeze(node: ir.Node, version: int) -> ir.Value | None:
    # Without axes every dimension of size 1 goes; an empty list is read either way by runtimes.
    shape = static_dims(node.inputs[0])
    if ints_parameter(node, "axes", 1) != () or shape is None or 1 in shape:
        return None
    return node.inputs[0]


def _flatten(node: ir.Node, version: int) -> ir.Value | None:
    flat = rank(node.inputs[0]) == 2 and int_attribute(node, "axis", 1) in (1, -1)
    return node.inputs[0] if flat else None


def _cancels(node: ir.Node, version: int) -> ir.Value | None:
    inner = producer_of(node.inputs[0], node.op_type)
    return None if inner is None else inner.inputs[0]


def _relu_or_abs(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0] if _is_non_negative(node.inputs[0], _DEPTH) else None


def _is_non_negative(value: ir.Value | None, depth: int) -> bool:
    producer = None if value is None else value.producer()
    # Integers wrap: Abs of the smallest one is negative.
    if producer is None or producer.domain or value is None or value.dtype is None:
        return False
    if not value.dtype.is_floating_point():
        return False
    if producer.op_type in _NON_NEGATIVE:
        return True
    if depth == 0 or value.index() != 0:
        return False
    if producer.op_type in _KEEPS_SIGN:
        return _is_non_negative(producer.inputs[0], depth - 1)
    if producer.op_type in _KEEPS_SIGNS:
        return all(_is_non_negative(item, depth - 1) for item in producer.inputs)
    return False


def _whole(node: ir.Node, version: int) -> ir.Value | None:
    x = node.inputs[0]
    if producer_of(x, *_WHOLE) is not None:
        return x
    cast = producer_of(x, "Cast")
    from_type = None if cast is None or cast.inputs[0] is None else cast.inputs[0].dtype
    return x if from_type is not None and from_type.is_integer() else None


def _sequence_at(node: ir.Node, version: int) -> ir.Value | None:
    items = producer_of(node.inputs[0], "SequenceConstruct")
    position = constant_ints(node.inputs[1])
    if items is None or position is None or len(position) != 1:
        return None
    in_range = -len(items.inputs) <= position[0] < len(items.inputs)
    return items.inputs[position[0]] if in_range else None


_SOURCES: dict[str, Source] = {
    "Identity": _first_input,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    **dict.fromkeys(("Concat", "Sum", "Max", "Min", "Mean"), _single_input),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    **dict.fromkeys(("Not", "Neg", "BitwiseNot"), _cancels),
    **dict.fromkeys(("Relu", "Abs"), _relu_or_abs),
    **dict.fromkeys(_WHOLE, _whole),
    "SequenceAt": _sequence_at,
}

"""Reads x / sqrt(mean(x^2) + epsilon), the core of LayerNormalization and RMSNormalization.

Exporters spell the quotient as Div by Sqrt, as Mul by Reciprocal(Sqrt), 1 / Sqrt or Pow(.., -0.5),
and the square as Pow(x, 2) or x * x.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph.values import constant, int_attribute, rank, static_dims
from onnxopt.passes.cleanup.single_node import ints_parameter, producer_of


@dataclasses.dataclass(frozen=True)
class Quotient:
    """x / sqrt(mean(x^2) + epsilon), with everything that it is made of.

    Attributes:
        x: What is normalized.
        mean: The ReduceMean of the squares.
        epsilon: 0 if there is none.
        denominator: sqrt(mean(x^2) + epsilon).
        nodes: All nodes that compute it, the root included, the one that makes x not.
        plain: True if it is spelled x / Sqrt(ReduceMean(Pow(x, 2)) + epsilon).
    """

    x: ir.Value
    mean: ir.Node
    epsilon: float
    denominator: ir.Value
    nodes: dict[ir.Node, None]
    plain: bool


def number(value: ir.Value | None) -> float | None:
    """The number that a constant with a single element holds."""
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind not in "iufV":
        return None
    return float(array.reshape(-1)[0])


def read_quotient(root: ir.Node) -> Quotient | None:
    """The quotient whose last node is `root`, or None."""
    numerator, denominator = root.inputs[:2]
    if root.op_type == "Div":
        return _read(root, numerator, denominator, {root: None}, True)
    for x, inverse in ((numerator, denominator), (denominator, numerator)):
        node = producer_of(inverse, "Reciprocal", "Div", "Pow")
        if node is None:
            continue
        nodes = {root: None, node: None}
        below: ir.Value | None = None
        if node.op_type == "Reciprocal":
            below = node.inputs[0]
        elif node.op_type == "Div" and number(node.inputs[0]) == 1.0:
            below = node.inputs[1]
        elif node.op_type == "Pow" and number(node.inputs[1]) == -0.5:
            found = _mean_square(node.inputs[0], x, nodes)
            return None if found is None else _quotient(x, *found, node.outputs[0], nodes, False)
        if below is not None:
            return _read(root, x, below, nodes, False)
    return None


def _read(
    root: ir.Node,
    x: ir.Value | None,
    denominator: ir.Value | None,
    nodes: dict[ir.Node, None],
    plain: bool,
) -> Quotient | None:
    sqrt = producer_of(denominator, "Sqrt")
    if sqrt is None:
        return None
    nodes[sqrt] = None
    found = _mean_square(sqrt.inputs[0], x, nodes)
    return None if found is None else _quotient(x, *found, sqrt.outputs[0], nodes, plain)


def _quotient(
    x: ir.Value | None,
    mean: ir.Node,
    epsilon: float,
    square: ir.Node,
    denominator: ir.Value,
    nodes: dict[ir.Node, None],
    plain: bool,
) -> Quotient:
    assert x is not None
    plain = plain and square.op_type == "Pow" and epsilon > 0
    return Quotient(x, mean, epsilon, denominator, nodes, plain)


def _mean_square(
    value: ir.Value | None, x: ir.Value | None, nodes: dict[ir.Node, None]
) -> tuple[ir.Node, float, ir.Node] | None:
    """Reads mean(x^2) + epsilon as (the ReduceMean, epsilon, the node that squares)."""
    epsilon = 0.0
    add = producer_of(value, "Add")
    if add is not None:
        for mean_value, constant_value in (add.inputs, add.inputs[::-1]):
            found = number(constant_value)
            if found is not None and producer_of(mean_value, "ReduceMean") is not None:
                epsilon, value = found, mean_value
                nodes[add] = None
                break
    mean = producer_of(value, "ReduceMean")
    if mean is None or x is None or epsilon < 0:
        return None
    square = producer_of(mean.inputs[0], "Pow", "Mul")
    if square is None:
        return None
    base = square.inputs[0]
    if square.op_type == "Pow" and number(square.inputs[1]) != 2.0:
        return None
    if square.op_type == "Mul" and square.inputs[1] is not base:
        return None
    if base is not x and not _same_difference(base, x):
        return None
    nodes |= {mean: None, square: None}
    if base is not x and base is not None:
        producer = base.producer()
        assert producer is not None
        nodes[producer] = None
    return mean, epsilon, square


def _same_difference(one: ir.Value | None, other: ir.Value) -> bool:
    """True for two Sub nodes with the same operands, as old exporters write x - mean(x) twice."""
    first, second = producer_of(one, "Sub"), producer_of(other, "Sub")
    return (
        first is not None and second is not None and list(first.inputs) == list(second.inputs)
    )


def trailing_axes(mean: ir.Node) -> int | None:
    """How many last axes a ReduceMean reduces and keeps as ones; None for anything else."""
    axes = ints_parameter(mean, "axes", 1)
    if not axes or not int_attribute(mean, "keepdims", 1):
        return None
    size = rank(mean.inputs[0])
    if size is None:
        if min(axes) >= 0:
            return None
        size = 0
    elif size == 0:
        return None
    wanted = sorted(axis - size if axis >= 0 else axis for axis in axes)
    return len(axes) if wanted == list(range(-len(axes), 0)) else None


def trailing_shape(x: ir.Value, count: int) -> tuple[int, ...] | None:
    """The last `count` dimensions of x if they are numbers."""
    if x.shape is None or len(x.shape) < count:
        return None
    last = ir.Value(shape=ir.Shape(x.shape[len(x.shape) - count :]))
    return static_dims(last)


def closed(nodes: Sequence[ir.Node], root: ir.Node) -> bool:
    """True if nobody but `nodes` uses a result of them, that of `root` excepted."""
    inside = set(nodes)
    for node in inside:
        if node is root:
            continue
        for value in node.outputs:
            if value.is_graph_output() or any(user not in inside for user in value.consumers()):
                return False
    return True

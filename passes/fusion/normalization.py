"""Reads x / sqrt(mean(x^2) + epsilon), the core of LayerNormalization and RMSNormalization.

Exporters spell the quotient as Div by Sqrt, as Mul by Reciprocal(Sqrt), 1 / Sqrt or Pow(.., -0.5),
and the square as Pow(x, 2) or x * x. A number with more axes than what it is combined with would
add some to the result, which is no normalization then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult

from onnxopt.graph.values import constant, int_attribute, rank, static_dims
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    ints_parameter,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.polynomials import number

# A scale of ones is made for what is normalized together, whatever size the model claims.
_LARGEST_SCALE = 1 << 24
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass
class RootMeanSquare:
    """sqrt(mean(base^2) + epsilon), or one over it.

    Attributes:
        base: What is squared.
        mean: The ReduceMean of the squares.
        epsilon: 0 if there is none.
        nodes: All nodes that compute it from `base`.
        plain: True if it is spelled Sqrt(ReduceMean(Pow(base, 2)) + epsilon).
    """

    base: ir.Value
    mean: ir.Node
    epsilon: float
    nodes: list[ir.Node]
    plain: bool


@dataclasses.dataclass(frozen=True)
class Quotient:
    """x / sqrt(mean(x^2) + epsilon).

    Attributes:
        x: What is normalized.
        below: The denominator.
        nodes: All nodes that compute it from `x`, the last one included.
        plain: True if it is spelled x / Sqrt(ReduceMean(Pow(x, 2)) + epsilon).
    """

    x: ir.Value
    below: RootMeanSquare
    nodes: list[ir.Node]
    plain: bool


def read_quotient(root: ir.Node) -> Quotient | None:
    """The quotient whose last node is `root`, a Div or a Mul; None if it is none."""
    first, second = root.inputs[:2]
    if root.op_type == "Div":
        return _quotient(root, first, read_root(second), divided=True)
    return _quotient(root, first, read_inverse_root(second), divided=False) or _quotient(
        root, second, read_inverse_root(first), divided=False
    )


def _quotient(
    root: ir.Node, x: ir.Value | None, below: RootMeanSquare | None, *, divided: bool
) -> Quotient | None:
    if x is None or below is None:
        return None
    nodes = [root, *below.nodes]
    if below.base is not x:
        # Old exporters write x - mean(x) twice: once to be squared, once to be divided.
        squared, divisor = producer_of(below.base, "Sub"), producer_of(x, "Sub")
        if squared is None or divisor is None or list(squared.inputs) != list(divisor.inputs):
            return None
        nodes.append(squared)
    return Quotient(x, below, nodes, divided and below.plain)


def read_root(value: ir.Value | None) -> RootMeanSquare | None:
    """Reads sqrt(mean(base^2) + epsilon)."""
    sqrt = producer_of(value, "Sqrt")
    below = None if sqrt is None else _mean_square(sqrt.inputs[0])
    if sqrt is None or below is None:
        return None
    below.nodes.append(sqrt)
    return below


def read_inverse_root(value: ir.Value | None) -> RootMeanSquare | None:
    """Reads 1 / sqrt(mean(base^2) + epsilon)."""
    node = producer_of(value, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    below = None
    if node.op_type == "Reciprocal":
        below = read_root(node.inputs[0])
    elif node.op_type == "Div" and number(*node.inputs) == 1.0:
        below = read_root(node.inputs[1])
    elif node.op_type == "Pow" and number(*node.inputs[::-1]) == -0.5:
        below = _mean_square(node.inputs[0])
    if below is not None:
        below.nodes.append(node)
    return below


def _mean_square(value: ir.Value | None) -> RootMeanSquare | None:
    """Reads mean(base^2) + epsilon."""
    epsilon = 0.0
    nodes = []
    add = producer_of(value, "Add")
    if add is not None:
        value = None
        for summand, small in (add.inputs, add.inputs[::-1]):
            found = number(small, summand)
            if found is not None and found >= 0:
                epsilon, value = found, summand
        nodes.append(add)
    mean = mean_of(value)
    square = None if mean is None else producer_of(mean.inputs[0], "Pow", "Mul")
    if mean is None or square is None or square.inputs[0] is None:
        return None
    power = number(*square.inputs[::-1]) if square.op_type == "Pow" else None
    if power != 2.0 and not (square.op_type == "Mul" and square.inputs[1] is square.inputs[0]):
        return None
    plain = square.op_type == "Pow" and add is not None
    return RootMeanSquare(square.inputs[0], mean, epsilon, [*nodes, mean, square], plain)


def mean_of(value: ir.Value | None) -> ir.Node | None:
    """The node that makes the value as a mean over some axes, if one does."""
    return producer_of(value, "ReduceMean", "GlobalAveragePool")


def trailing_axes(mean: ir.Node) -> int | None:
    """How many last axes a mean is over, that it keeps as ones; None for anything else.

    TensorFlow's means over the last of three axes come as GlobalAveragePool, which pools all axes
    behind the second.
    """
    if mean.op_type == "GlobalAveragePool":
        pooled = (rank(mean.inputs[0]) or 0) - 2
        return pooled if pooled > 0 else None
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
    """The last `count` dimensions of x if they are numbers that a scale may have."""
    if x.shape is None or len(x.shape) < count:
        return None
    last = static_dims(ir.Value(shape=ir.Shape(x.shape[len(x.shape) - count :])))
    return None if last is None or math.prod(last) > _LARGEST_SCALE else last


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


class NormalizationCasts(NodeRule):
    """`Cast(Normalization(Cast(x, float), g, b))` back to the 16-bit type of x.

    Normalizations compute 16-bit values in float by themselves (stash_type).
    """

    norm_type: ClassVar[str]

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the Cast to float and for vectors that are exact in 16 bit."""
        node = context.root
        norm = producer_of(node.inputs[0], self.norm_type)
        up = None if norm is None else producer_of(norm.inputs[0], "Cast")
        x = None if up is None else up.inputs[0]
        if norm is None or x is None or x.dtype not in _HALF or not only_user(norm.outputs[0]):
            return no_match()
        if root.dtype != x.dtype or norm.outputs[0].dtype != ir.DataType.FLOAT:
            return no_match()
        for vector in norm.inputs[1:]:
            if _narrow(vector, x.dtype) is None:
                return refuse("scale or bias would not be exact in 16 bit", node)
        return found(parts=(norm, x))

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Node, ir.Value]) -> ir.Value:
        """The normalization on the 16-bit values."""
        norm, x = parts
        inputs: list[ir.Value] = [x]
        for vector in norm.inputs[1:]:
            narrow = _narrow(vector, x.dtype)
            if isinstance(narrow, ir.Tensor):
                assert vector is not None
                narrow = op.initializer(narrow, name=vector.name)
            assert narrow is not None
            inputs.append(narrow)
        y: ir.Value = op.op(norm.op_type, *inputs, **norm.attributes)
        return y


def _narrow(vector: ir.Value | None, dtype: ir.DataType | None) -> ir.Value | ir.Tensor[Any] | None:
    """The vector in `dtype` if that loses nothing."""
    array = constant(vector)
    if array is not None and dtype is not None:
        narrow = array.astype(dtype.numpy())
        exact = np.array_equal(narrow.astype(array.dtype), array)
        return ir.Tensor(narrow, dtype=dtype) if exact else None
    cast = producer_of(vector, "Cast")
    source = None if cast is None else cast.inputs[0]
    return source if source is not None and source.dtype == dtype else None

"""Reads a chain of Add, Sub, Mul, Div, Pow and Neg with numbers as a polynomial of one value.

Exporters spell 0.7978 * (x + 0.044715 * x^3) in a dozen ways. As a list of coefficients all of them
are the same, so that a fusion compares numbers and not graphs.

A value that is used twice is read once, and no more than 64 nodes are read for one formula: the
longest known one has ten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph.values import constant, rank

_DEGREE = 3
_MOST_NODES = 64

Coefficients = tuple[float, ...]


def most_axes(x: ir.Value | None) -> int:
    """How many axes a constant with a single element may have without adding some to `x`."""
    size = rank(x)
    return 1 if size is None else size


def number(value: ir.Value | None, beside: ir.Value | None = None) -> float | None:
    """The number that a constant with a single element holds.

    Args:
        value: The constant.
        beside: What it is combined with; a constant that has more axes is no number then.
    """
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind not in "iufV":
        return None
    if beside is not None and array.ndim > most_axes(beside):
        return None
    return float(array.reshape(-1)[0])


@dataclasses.dataclass(frozen=True)
class _Polynomial:
    coefficients: Coefficients
    nodes: dict[ir.Node, None]  # that compute it


class Reader:
    """Reads values and remembers the nodes that it read through.

    Attributes:
        nodes: Every node whose result became part of a polynomial; the caller may add to it.
    """

    def __init__(self) -> None:
        self.nodes: dict[ir.Node, None] = {}
        self._rank = 0  # of the constant with the most axes
        self._left = _MOST_NODES
        self._known: dict[tuple[ir.Value, ir.Value], _Polynomial | None] = {}

    def spend(self) -> bool:
        """Counts a node that is looked at; False if there were too many for any formula."""
        self._left -= 1
        return self._left >= 0

    def number(self, value: ir.Value | None) -> float | None:
        """The number that a constant with a single element holds; `keeps_rank` knows its axes."""
        found, array = number(value), constant(value)
        if found is not None and array is not None:
            self._rank = max(self._rank, array.ndim)
        return found

    def keeps_rank(self, x: ir.Value) -> bool:
        """True if no constant that was read has more axes than `x` and so adds some to it."""
        return self._rank <= most_axes(x)

    def polynomial(self, value: ir.Value | None, x: ir.Value) -> Coefficients | None:
        """Coefficients of `value` as a polynomial of `x`, constant first; None if it is none."""
        if value is None:
            return None
        if value is x:
            return (0.0, 1.0)
        number = self.number(value)
        if number is not None:
            return (number,)
        if (value, x) not in self._known:
            self._known[value, x] = self._computed(value, x)
        known = self._known[value, x]
        if known is None:
            return None
        self.nodes |= known.nodes
        return known.coefficients

    def _computed(self, value: ir.Value, x: ir.Value) -> _Polynomial | None:
        node = value.producer()
        if node is None or node.domain or not self.spend():
            return None
        outside, self.nodes = self.nodes, {}
        result = self._combine(node, x)
        inside, self.nodes = self.nodes, outside
        if result is None or len(result) > _DEGREE + 1 or not np.all(np.isfinite(result)):
            return None
        return _Polynomial(result, inside | {node: None})

    def _combine(self, node: ir.Node, x: ir.Value) -> Coefficients | None:
        if node.op_type == "Neg":
            inner = self.polynomial(node.inputs[0], x)
            return None if inner is None else tuple(-c for c in inner)
        if node.op_type not in ("Add", "Sub", "Mul", "Div", "Pow") or len(node.inputs) != 2:
            return None
        left = self.polynomial(node.inputs[0], x)
        right = None if left is None else self.polynomial(node.inputs[1], x)
        if left is None or right is None:
            return None
        if node.op_type in ("Add", "Sub"):
            sign = 1.0 if node.op_type == "Add" else -1.0
            size = max(len(left), len(right))
            pairs = zip(_padded(left, size), _padded(right, size), strict=True)
            return tuple(a + sign * b for a, b in pairs)
        if node.op_type == "Mul":
            return tuple(np.convolve(left, right).tolist())
        if len(right) != 1:
            return None
        if node.op_type == "Div":
            return None if right[0] == 0 else tuple(c / right[0] for c in left)
        if right[0] not in (1.0, 2.0, 3.0):
            return None
        power: Sequence[float] = (1.0,)
        for _ in range(int(right[0])):
            power = np.convolve(power, left).tolist()
        return tuple(power)

    def closed(self, root: ir.Node) -> bool:
        """True if nobody but the nodes read uses a result of them, that of `root` excepted."""
        inside = self.nodes.keys() | {root}
        for node in self.nodes:
            if node is root:
                continue
            for value in node.outputs:
                if value.is_graph_output() or any(user not in inside for user in value.consumers()):
                    return False
        return True


def _padded(coefficients: Coefficients, size: int) -> Coefficients:
    return coefficients + (0.0,) * (size - len(coefficients))


def close(actual: Sequence[float], expected: Sequence[float], dtype: ir.DataType | None) -> bool:
    """True if the numbers agree as well as constants that were written down in `dtype` do."""
    tolerance = 2e-3 if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else 3e-5
    return len(actual) == len(expected) and bool(
        np.allclose(actual, expected, rtol=tolerance, atol=1e-9)
    )

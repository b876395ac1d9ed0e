"""How large the numbers of a value can be, from constants, types and the operators in between.

Constants are known, integers and booleans are bounded by their type; Where, Max, Min and what moves
data hand bounds on; Add, Sub, Mul and Div by a constant combine them. A bound beyond the largest
number of the type means infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import constant

# The assumed bound on computed data, and the numbers from which a sum rounds to infinity.
_LIMITS: dict[ir.DataType, tuple[float, float]] = {
    ir.DataType.FLOAT16: (2.0**14, 65520.0),
    ir.DataType.BFLOAT16: (1e30, 3.3961775e38),
    ir.DataType.FLOAT: (1e30, float.fromhex("0x1.ffffffp127")),
    ir.DataType.DOUBLE: (1e30, math.inf),
}
_COMPUTED = frozenset(
    ["MatMul", "Gemm", "Conv", "FusedMatMul", "LayerNormalization", "RMSNormalization", "Einsum"]
)
_MOVES = (
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
    *("Expand", "Slice", "Gather", "Tile", "Split"),
)
_DEPTH = 32


class UnboundedError(Exception):
    """The value may be infinite or NaN; the message says because of what."""


class Magnitudes:
    """Bounds on the absolute values that a value can hold.

    Args:
        assume: Take what MatMul and its like compute for finite and of ordinary size; otherwise
            their results have no bound.
    """

    def __init__(self, *, assume: bool) -> None:
        self._assume = assume
        self._known: dict[ir.Value, float] = {}

    def of(self, value: ir.Value | None, depth: int = _DEPTH) -> float:
        """The bound.

        Raises:
            UnboundedError: The value may be infinite or NaN.
        """
        if value is None or depth == 0:
            raise UnboundedError("what is computed there is too deep to follow")
        if value not in self._known:
            self._known[value] = self._derived(value, depth)
        return self._known[value]

    def _derived(self, value: ir.Value, depth: int) -> float:
        array = constant(value)
        if array is not None:
            return _largest(array)
        producer = value.producer()
        if producer is not None and not _is_followed(producer):
            kind = f"{producer.domain}::{producer.op_type}".removeprefix("::")
            raise UnboundedError(f"{kind} may give an infinity or NaN")
        dtype = _dtype(value, depth)
        if dtype is not None and not dtype.is_floating_point():
            if dtype == ir.DataType.BOOL:
                return 1.0
            if dtype.is_integer():
                return 2.0**dtype.bitwidth
        if dtype not in _LIMITS:
            raise UnboundedError("its type is not known or no common floating-point type")
        bound = self._computed(value, depth - 1, _LIMITS[dtype][0])
        if not bound < _LIMITS[dtype][1]:
            raise UnboundedError(f"a sum or product of what is there may overflow {dtype.name}")
        return bound

    def of_sum(self, value: ir.Value | None, other: float) -> float:
        """The bound on the sum of a value and numbers up to `other`.

        Raises:
            UnboundedError: The sum may be infinite or NaN.
        """
        bound = self.of(value) + other
        dtype = _dtype(value, _DEPTH)
        if dtype is None or not bound < _LIMITS[dtype][1]:
            raise UnboundedError("the sum of the scores and their mask may overflow")
        return bound

    def _computed(self, value: ir.Value, depth: int, assumed: float) -> float:
        node = value.producer()
        if node is None:
            raise UnboundedError("a graph input may hold -inf or NaN")
        op, inputs = node.op_type, node.inputs
        if op in _COMPUTED:
            if self._assume:
                return assumed
            raise UnboundedError(f"the result of {op} may overflow")
        if op in _FROM_INPUTS:
            return _FROM_INPUTS[op](*(self.of(item, depth) for item in _operands(op, inputs)))
        divisor = constant(inputs[1])
        if divisor is None or divisor.size == 0 or not np.abs(divisor).min() > 0:
            raise UnboundedError("it is divided by what may be zero")
        return self.of(inputs[0], depth) / float(np.abs(divisor).min())


def _is_followed(node: ir.Node) -> bool:
    """True for integers of any origin, and for operators whose bound is known or assumed."""
    dtype = node.outputs[0].dtype
    if dtype is not None and not dtype.is_floating_point():
        return True
    if node.domain == "com.microsoft":
        return node.op_type == "FusedMatMul"
    if node.op_type == "Clip" and node.attributes:
        return False  # Limits as attributes, before opset 11.
    known = node.op_type in _COMPUTED or node.op_type in _FROM_INPUTS or node.op_type == "Div"
    return known and not node.domain


def _operands(op: str, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """The inputs that hold data: not the condition of a Where, not the shape of a Reshape."""
    if op == "Where":
        return inputs[1:]
    if op == "Clip":
        return [value for value in inputs if value is not None]
    return inputs[:1] if op in _UNARY else inputs


def _sum(*bounds: float) -> float:
    return sum(bounds)


def _product(*bounds: float) -> float:
    return math.prod(bounds)


def _same(bound: float) -> float:
    return bound


def _one(bound: float) -> float:
    return 1.0


def _rounded(bound: float) -> float:
    return bound + 1.0


_UNARY: dict[str, Callable[..., float]] = {
    **dict.fromkeys(_MOVES, _same),
    **dict.fromkeys(("Cast", "Neg", "Abs", "Relu"), _same),
    **dict.fromkeys(("Ceil", "Floor", "Round"), _rounded),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softmax"), _one),
}
_FROM_INPUTS: dict[str, Callable[..., float]] = {
    **_UNARY,
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Mul": _product,
    # A limit of Clip can be larger than the data.
    **dict.fromkeys(("Where", "Max", "Min", "Concat", "Clip"), max),
}


def _largest(array: NDArray[Any]) -> float:
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)  # bfloat16 and friends
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnboundedError(
            "a constant there contains NaN" if np.isnan(array).any() else "a mask contains -inf"
        )
    return max(abs(float(array.max())), abs(float(array.min()))) if array.size else 0.0


def _dtype(value: ir.Value | None, depth: int) -> ir.DataType | None:
    """The type of the value, or what follows from the operator that makes it."""
    if value is None or depth == 0 or value.dtype is not None:
        return None if value is None or depth == 0 else value.dtype
    node = value.producer()
    if value.const_value is not None:
        return value.const_value.dtype
    if node is None or node.domain:
        return None
    if node.op_type == "Cast" and "to" in node.attributes:
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type in _COMPUTED or node.op_type in _FROM_INPUTS or node.op_type == "Div":
        return _dtype(_operands(node.op_type, node.inputs)[0], depth - 1)
    return None

"""Guards against NaN around values that are never NaN.

    Where(IsNaN(s), c, s)        -> s
    Where(Not(IsNaN(s)), s, c)   -> s        where s cannot be NaN

Exporters put the guard around the Softmax of attention. Softmax(z) is NaN exactly if z holds a NaN
or +inf, or if a whole row of it is -inf, as in a row that is masked out by -inf. So the guard is
dead if z is finite, or if a constant mask puts -inf only beside finite numbers, in every row.

Whether z is finite is derived from bounds on absolute values: constants are known; Where, Max, Min
and what moves data hand bounds on; Add, Sub, Mul and Div by a constant combine them; a bound beyond
the largest number of the type is infinite. Two masks of -3.4e38 that are added up, or one of -65504
and scores in float16, are found out by that.

The assumption: what MatMul, Gemm, Conv and normalizations make of the model's data is finite and
smaller than 1e30 (16384 in float16). If it is not, the model is broken already: a guard hides an
overflow of the scores, but the values that are weighted with them overflow no later. `strict` makes
no such assumption, and then only what follows from constants, integers and booleans counts.

Refused, each with its reason: a mask that contains -inf; anything whose bound is not known, such as
Log, Exp, Pow, division by a computed value, and graph inputs, which may be masks themselves.
Outside of a Softmax the assumption is never made, since a guard there was put by somebody who saw
NaN. Subgraphs are rewritten too; functions are left alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import MatchResult, RewriteRule, RewriteRuleClassBase

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import broadcasts_into, constant, dims, int_attribute, rank
from onnxopt.passes.cleanup.single_node import producer_of

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveNanGuards(RewritePass):
    """Removes `Where(IsNaN(x), constant, x)` where x cannot be NaN.

    Attributes:
        strict: Do not assume that scores which the model computes are finite.
    """

    name: ClassVar[str] = "remove-nan-guards"
    strict: bool = False

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for each way to write the guard."""
        guards = (
            _Guard("nan-guard", strict=self.strict),
            _NegatedGuard("negated-nan-guard", strict=self.strict),
        )
        return [
            RewriteRule(
                guard.pattern, guard.rewrite, guard.check, name=guard.name, remove_nodes=False
            )
            for guard in guards
        ]


class _Guard(RewriteRuleClassBase):
    def __init__(self, name: str, *, strict: bool) -> None:
        super().__init__(name)
        self._strict = strict

    def pattern(self, op: Any, s: Any, fallback: Any) -> Any:
        return op.Where(op.IsNaN(s), fallback, s)

    def check(self, context: Any, s: ir.Value, fallback: ir.Value) -> MatchResult:
        result = MatchResult()
        if not _keeps_shape(fallback, s):
            return result.fail("the fallback may enlarge the result", fallback)
        try:
            _check_not_nan(s, self._strict)
        except _UnboundedError as unbounded:
            return result.fail(str(unbounded), s)
        return result

    def rewrite(self, op: Any, s: ir.Value, fallback: ir.Value) -> ir.Value:
        return s


class _NegatedGuard(_Guard):
    def pattern(self, op: Any, s: Any, fallback: Any) -> Any:
        return op.Where(op.Not(op.IsNaN(s)), s, fallback)


def _keeps_shape(fallback: ir.Value, s: ir.Value) -> bool:
    shape = dims(fallback)
    if shape is None:
        return False
    if set(shape) <= {1}:
        # The result of a Softmax has one dimension at least.
        return len(shape) <= (rank(s) or (1 if producer_of(s, "Softmax") else 0))
    return broadcasts_into(shape, s)


class _UnboundedError(Exception):
    """The value may be infinite or NaN; the message is the reason for the refusal."""


def _check_not_nan(s: ir.Value, strict: bool) -> None:
    softmax = producer_of(s, "Softmax")
    if softmax is None:
        _Bounds(assume=False).of(s)
        return
    bounds = _Bounds(assume=not strict)
    z = softmax.inputs[0]
    # Every row over the last axis lies inside one over the axes that older opsets flatten.
    last = int_attribute(softmax, "axis", -1) in (-1, (rank(z) or 0) - 1)
    if not (last and bounds.is_masked_in_part(z)):
        bounds.of(z)


class _Bounds:
    """Bounds on the absolute values that a value can hold."""

    def __init__(self, *, assume: bool) -> None:
        self._assume = assume
        self._known: dict[ir.Value, float] = {}

    def of(self, value: ir.Value | None, depth: int = _DEPTH) -> float:
        """The bound.

        Raises:
            _UnboundedError: The value may be infinite or NaN.
        """
        if value is None or depth == 0:
            raise _UnboundedError("what is computed there is too deep to follow")
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
            raise _UnboundedError(f"{kind} may give an infinity or NaN")
        dtype = _dtype(value, depth)
        if dtype is not None and not dtype.is_floating_point():
            if dtype == ir.DataType.BOOL:
                return 1.0
            if dtype.is_integer():
                return 2.0**dtype.bitwidth
        if dtype not in _LIMITS:
            raise _UnboundedError("its type is not known or no common floating-point type")
        bound = self._computed(value, depth - 1, _LIMITS[dtype][0])
        if not bound < _LIMITS[dtype][1]:
            raise _UnboundedError(f"a sum or product of what is there may overflow {dtype.name}")
        return bound

    def is_masked_in_part(self, z: ir.Value | None) -> bool:
        """True if z is finite but for a constant mask of -inf that leaves something in each row."""
        add, where = producer_of(z, "Add"), producer_of(z, "Where")
        if add is not None:
            for scores, mask in (add.inputs, reversed(add.inputs)):
                array = constant(mask)
                if array is not None and array.ndim and np.isneginf(array).any():
                    finite = np.isfinite(array)
                    if not (finite | np.isneginf(array)).all() or not finite.any(-1).all():
                        return False
                    self._check_sum(scores, float(np.abs(array[finite]).max()))
                    return True
        elif where is not None:
            condition, fill = constant(where.inputs[0]), constant(where.inputs[2])
            if condition is None or fill is None or not np.isneginf(fill).all():
                return False
            if condition.ndim and condition.any(-1).all():
                self.of(where.inputs[1])
                return True
        return False

    def _check_sum(self, scores: ir.Value | None, other: float) -> None:
        bound = self.of(scores) + other
        dtype = None if scores is None else _dtype(scores, _DEPTH)
        if dtype is not None and not bound < _LIMITS[dtype][1]:
            raise _UnboundedError(f"the masked scores may overflow {dtype.name}")

    def _computed(self, value: ir.Value, depth: int, assumed: float) -> float:
        node = value.producer()
        if node is None:
            raise _UnboundedError("a graph input may hold -inf or NaN")
        op, inputs = node.op_type, node.inputs
        if op in _COMPUTED:
            if self._assume:
                return assumed
            raise _UnboundedError(f"the result of {op} may overflow")
        if op in _FROM_INPUTS:
            return _FROM_INPUTS[op](*(self.of(item, depth) for item in _operands(op, inputs)))
        divisor = constant(inputs[1])
        if divisor is None or divisor.size == 0 or not np.abs(divisor).min() > 0:
            raise _UnboundedError("it is divided by what may be zero")
        return self.of(inputs[0], depth) / float(np.abs(divisor).min())


def _is_followed(node: ir.Node) -> bool:
    """True for integers of any origin, and for operators whose bound is known or assumed."""
    dtype = node.outputs[0].dtype
    if dtype is not None and not dtype.is_floating_point():
        return True
    if node.domain == "com.microsoft":
        return node.op_type == "FusedMatMul"
    known = node.op_type in _COMPUTED or node.op_type in _FROM_INPUTS or node.op_type == "Div"
    return known and not node.domain


def _operands(op: str, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """The inputs that hold data: not the condition of a Where, not the shape of a Reshape."""
    if op == "Where":
        return inputs[1:]
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
    **dict.fromkeys(("Cast", "Neg", "Abs", "Relu", "Clip"), _same),
    **dict.fromkeys(("Ceil", "Floor", "Round"), _rounded),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softmax"), _one),
}
_FROM_INPUTS: dict[str, Callable[..., float]] = {
    **_UNARY,
    **dict.fromkeys(("Add", "Sub", "Sum"), _sum),
    "Mul": _product,
    **dict.fromkeys(("Where", "Max", "Min", "Concat"), max),
}


def _largest(array: NDArray[Any]) -> float:
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)  # bfloat16 and friends
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _UnboundedError(
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

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
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule, RewriteRuleClassBase

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import broadcasts_into, constant, dims, int_attribute, rank
from onnxopt.passes.cleanup.magnitudes import Magnitudes, UnboundedError
from onnxopt.passes.cleanup.single_node import producer_of


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
        except UnboundedError as unbounded:
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


def _check_not_nan(s: ir.Value, strict: bool) -> None:
    softmax = producer_of(s, "Softmax")
    if softmax is None:
        Magnitudes(assume=False).of(s)
        return
    bounds = Magnitudes(assume=not strict)
    z = softmax.inputs[0]
    # Every row over the last axis lies inside one over the axes that older opsets flatten.
    last = int_attribute(softmax, "axis", -1) in (-1, (rank(z) or 0) - 1)
    if not (last and _is_masked_in_part(z, bounds)):
        bounds.of(z)


def _is_masked_in_part(z: ir.Value | None, bounds: Magnitudes) -> bool:
    """True if z is finite but for a constant mask of -inf that leaves something in each row."""
    add, where = producer_of(z, "Add"), producer_of(z, "Where")
    if add is not None:
        for scores, mask in (add.inputs, reversed(add.inputs)):
            array = constant(mask)
            if array is None or not array.ndim or not np.isneginf(array).any():
                continue
            finite = np.isfinite(array)
            if not (finite | np.isneginf(array)).all() or not finite.any(-1).all():
                return False
            bounds.of_sum(scores, float(np.abs(array[finite]).max()))
            return True
    elif where is not None:
        condition, fill = constant(where.inputs[0]), constant(where.inputs[2])
        if condition is None or fill is None or not np.isneginf(fill).all():
            return False
        if condition.ndim and condition.any(-1).all():
            bounds.of(where.inputs[1])
            return True
    return False

"""Query heads that share a key head are multiplied with it at once, and keys are not repeated.

    q [b, h, s, d]  k, v [b, t, d] of g = h / n heads each

    MatMul(Softmax(MatMul(q, repeat(k)^T) + m), repeat(v))
        -> unfold(MatMul(fold(Softmax(unfold(MatMul(fold(q), k^T)) + m)), v))

    fold    [b, g * n, s, ...] -> [b, g, n * s, ...]      both are Reshapes: n heads lie beside
    unfold  [b, g, n * s, ...] -> [b, g * n, s, ...]      each other in memory already

Head h of the query uses head h / n of the keys, so the rows of n query heads form one matrix that
is multiplied with one key head. Keys and values, the cache included, are then read once instead of
being copied n times first, and with one new token the products have n rows instead of one. All
operators are standard ones; what is added to the scores stays as it is, and so does the result.

One thread, ONNX Runtime 1.32, 16 query heads of 64 on 4 key heads, the speed against repeated keys
(`benchmarks/fused_kernels.py`), of this and of com.microsoft GroupQueryAttention:

    batch x tokens + past      1x1+128   1x1+512   1x1+2048   4x1+128   1x16+128   1x128+0   1x512+0
    this                         2.2       2.9       3.6        3.0        1.4       1.2       1.1
    GroupQueryAttention          1.5       2.0       2.4        2.0        1.2       1.0       1.3

Refused: what `FuseAttention` refuses. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph import symbolic
from onnxopt.graph.values import dims
from onnxopt.passes.cleanup.single_node import no_match
from onnxopt.passes.fusion.attention.bias import additive, sum_shape
from onnxopt.passes.fusion.attention.grouped import ungrouped
from onnxopt.passes.fusion.attention.heads import query_heads, typed
from onnxopt.passes.fusion.attention.lengths import integers
from onnxopt.passes.fusion.attention.operators import AttentionRule, as_output
from onnxopt.passes.fusion.attention.plan import Plan, known_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldQueryGroups(RewritePass):
    """Multiplies all query heads that share a key head with it at once, without repeating keys."""

    name: ClassVar[str] = "fold-query-groups"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule, at the product of probabilities and values."""
        return [_Fold.rule("query-groups")]


class _Fold(AttentionRule):
    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks no further where values are not repeated: most MatMuls are none of attention."""
        value = context.root.inputs[1]
        heads = None if value is None else query_heads(value)
        if heads is None or ungrouped(heads)[1] == 1:
            return no_match()
        return super().check(context, root)

    def unfit(self, plan: Plan) -> str | None:
        """Heads that share nothing are left as they are."""
        return None if plan.key_heads < plan.heads else ""

    def rewrite(self, op: Any, root: ir.Value, plan: Plan) -> ir.Value:
        """The two products with folded queries, and what was between them."""
        attention = plan.attention
        batch, heads, sequence, time = plan.scores
        groups, size, wide = plan.key_heads, known_size(plan.key, 3), known_size(plan.value, 3)
        assert isinstance(heads, int)
        query = attention.query.transposed(op)
        dtype = query.dtype
        assert dtype is not None
        rows = None if sequence is None else symbolic.mul(heads // groups, sequence)
        fold, unfold = integers(op, [0, groups, -1, 0]), integers(op, [0, heads, -1, 0])

        folded = typed(op.Reshape(query, fold), query, (batch, groups, rows, size))
        if attention.scale != 1.0:
            folded = typed(op.Mul(folded, _number(op, attention.scale, dtype)), query, dims(folded))
        key = plan.key.transposed(op)
        swapped = typed(op.Transpose(key, perm=[0, 1, 3, 2]), key, (batch, groups, size, time))
        product = typed(op.MatMul(folded, swapped), query, (batch, groups, rows, time))
        scores = typed(op.Reshape(product, unfold), query, plan.scores)
        if attention.cap:
            cap = _number(op, attention.cap, dtype)
            for step, other in ((op.Div, (cap,)), (op.Tanh, ()), (op.Mul, (cap,))):
                scores = typed(step(scores, *other), query, plan.scores)
        scores = self._masked(op, scores, plan, dtype)
        weights = typed(op.Softmax(scores, axis=-1), query, plan.scores)
        flat = typed(op.Reshape(weights, fold), query, (batch, groups, rows, time))
        mixed = typed(
            op.MatMul(flat, plan.value.transposed(op)), query, (batch, groups, rows, wide)
        )
        output = typed(op.Reshape(mixed, unfold), query, (batch, heads, sequence, wide))
        if attention.guarded:
            empty = op.IsNaN(output)
            output = typed(op.Where(empty, _number(op, 0.0, dtype), output), query, dims(output))
        return as_output(op, output, plan)

    def _masked(self, op: Any, scores: ir.Value, plan: Plan, dtype: ir.DataType) -> ir.Value:
        """Scores with all masks, which are added up first: layers that share them do it once."""
        total: ir.Value | None = None
        for mask in plan.attention.masks:
            part = additive(op, mask, dtype, plan.lengths)
            if total is not None:
                part = typed(op.Add(total, part), part, sum_shape(total, part))
            total = part
        return scores if total is None else typed(op.Add(scores, total), scores, plan.scores)


def _number(op: Any, number: float, dtype: ir.DataType) -> ir.Value:
    array = np.asarray(number).astype(dtype.numpy())
    value: ir.Value = op.initializer(ir.Tensor(array, dtype=dtype), name="attention_number")
    value.dtype, value.shape = dtype, ir.Shape(())
    return value

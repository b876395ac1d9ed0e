"""The rules that put a fused operator in the place of attention in canonical form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult

from onnxopt.graph.values import constant, dims, rank
from onnxopt.passes.cleanup.single_node import NodeRule, found, no_match, producer_of, refuse
from onnxopt.passes.fusion.attention.bias import bias_shape, emit_bias
from onnxopt.passes.fusion.attention.canonical import UnlikeError
from onnxopt.passes.fusion.attention.heads import typed
from onnxopt.passes.fusion.attention.lengths import integers
from onnxopt.passes.fusion.attention.masks import is_causal
from onnxopt.passes.fusion.attention.plan import Plan, known_size, plan_of
from onnxopt.passes.fusion.attention.shared_keys import fold_bias, fold_queries, unfold_output
from onnxopt.passes.fusion.runtime_operators import DOMAIN

_INT32 = ir.DataType.INT32


class AttentionRule(NodeRule):
    """A rule at the product of probabilities and values."""

    def __init__(self, name: str) -> None:
        super().__init__("MatMul", name)

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Reads the attention and asks whether the operator can stand for it."""
        node = context.root
        if constant(node.inputs[1]) is not None:
            return no_match()
        try:
            plan = plan_of(node, context.model)
        except UnlikeError as unlike:
            return refuse(str(unlike), node)
        reason = None if plan is None else self.unfit(plan)
        if plan is None or reason is not None:
            return refuse(reason, node) if reason else no_match()
        return found(plan=plan)

    def unfit(self, plan: Plan) -> str | None:
        """Why the operator cannot compute it; "" if another rule is to do it; None if it can."""
        raise NotImplementedError


class GroupQuery(AttentionRule):
    """Causal attention with a cache becomes GroupQueryAttention.

    Its kernels stop at a batch larger than 1 that has both several new tokens and a cache.
    """

    def __init__(self, name: str, single_prompts: bool) -> None:
        super().__init__(name)
        self.single_prompts = single_prompts

    def unfit(self, plan: Plan) -> str | None:
        """It is causal by itself, so the masks have to be, and appends to the cache."""
        if plan.past is None:
            return ""
        if plan.scores[0] != 1 and not self.single_prompts:
            return (
                "GroupQueryAttention runs no batch of several new tokens behind a cache: "
                "fix the batch to 1, or allow that with single-prompts=true"
            )
        if plan.window is None:
            return "the length of the cache is not known"
        if not any(is_causal(mask, plan.window) for mask in plan.attention.masks):
            return "the mask is not provably causal, which GroupQueryAttention is"
        if known_size(plan.key, 3) != known_size(plan.value, 3):
            return "keys and values differ in size"
        return None

    def rewrite(self, op: Any, root: ir.Value, plan: Plan) -> ir.Value:
        """The operator, and its output as heads again."""
        attention, lengths = plan.attention, plan.lengths
        assert plan.past is not None
        dtype = attention.query.value.dtype
        assert dtype is not None
        new_key, new_value = plan.new
        total = lengths.total(op)
        last = op.Cast(op.Sub(total, integers(op, [1])), to=_INT32)
        ends = op.Expand(last, lengths.batch(op))
        options = {"softcap": attention.cap} if attention.cap else {}
        outputs = op.GroupQueryAttention(
            attention.query.merged(op, "merged_query"),
            new_key.merged(op, "merged_key"),
            new_value.merged(op, "merged_value"),
            plan.past[0].past,
            plan.past[1].past,
            ends,
            op.Cast(total, to=_INT32),
            None,
            None,
            None,
            emit_bias(op, attention.masks, plan.scores, dtype, lengths),
            num_heads=plan.heads,
            kv_num_heads=plan.key_heads,
            scale=attention.scale,
            **options,
            _domain=DOMAIN,
            _outputs=3,
        )
        for value, cache in zip(outputs[1:], plan.past, strict=True):
            typed(value, cache.present, dims(cache.present))
        return _as_heads(op, outputs[0], plan)


class MultiHead(AttentionRule):
    """Attention of any kind becomes MultiHeadAttention."""

    def unfit(self, plan: Plan) -> str | None:
        """It knows no cap; query heads that share a key head have to share its masks, or none."""
        if plan.attention.cap:
            return "the scores are capped, which MultiHeadAttention does not do"
        if plan.shares_keys and bias_shape(plan.attention.masks, plan.scores)[1] is None:
            return "it is not known whether query heads share their mask as they share keys"
        return None

    def rewrite(self, op: Any, root: ir.Value, plan: Plan) -> ir.Value:
        """The operator, and its output as heads again."""
        attention, scores = plan.attention, plan.scores
        dtype = attention.query.value.dtype
        assert dtype is not None
        query = attention.query.merged(op, "merged_query")
        bias = emit_bias(op, attention.masks, scores, dtype, plan.lengths)
        caches: tuple[ir.Value, ...] = ()
        if plan.shares_keys:
            query = fold_queries(op, query, scores, plan.key_heads, known_size(plan.key, 3))
            bias = fold_bias(op, bias, scores, plan.key_heads)
        elif plan.past is not None:
            caches = tuple(cache.past for cache in plan.past)
        outputs = op.MultiHeadAttention(
            query,
            *_keys_and_values(op, plan),
            None,
            None,
            bias,
            *caches,
            num_heads=plan.key_heads,
            scale=attention.scale,
            _domain=DOMAIN,
            _outputs=3 if caches else 1,
        )
        output = outputs[0] if caches else outputs
        if caches:
            for value, cache in zip(outputs[1:], plan.past or (), strict=True):
                typed(value, cache.present, dims(cache.present))
        if plan.shares_keys:
            typed(output, attention.output, None)
            width = known_size(plan.value, 3)
            output = unfold_output(op, output, scores, plan.key_heads, width)
        return _as_heads(op, output, plan)


def _keys_and_values(op: Any, plan: Plan) -> tuple[ir.Value, ir.Value]:
    """As heads where that is what there is, as in a cache; merged where they come from merged ones.

    Shared heads are read with their cache already appended: the operator that appends would want a
    query as long as the new keys.
    """
    if plan.past is not None and not plan.shares_keys:
        key, value = plan.new
    else:
        key, value = plan.key, plan.value
        if not (key.is_made_of_merged or value.is_made_of_merged):
            return key.value, value.value
    return key.merged(op, "merged_key"), value.merged(op, "merged_value")


class Present(NodeRule):
    """`Concat(past, new)` of a cache is what the fused operator has computed already."""

    def __init__(self) -> None:
        super().__init__("Concat", "attention-cache")

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the operator that reads the same cache."""
        node = context.root
        if len(node.inputs) != 2 or node.inputs[0] is None:
            return no_match()
        past, new = node.inputs
        for user, index in past.uses():
            if user.graph is not node.graph or user.domain != DOMAIN or len(user.outputs) != 3:
                continue
            place = {"GroupQueryAttention": 3, "MultiHeadAttention": 6}.get(user.op_type)
            if place is None or index not in (place, place + 1):
                continue
            which = index - place
            if not _same_tokens(new, user.inputs[1 + which]):
                continue
            if root.uses():
                return refuse("the new cache is read elsewhere too", node)
            return found(present=user.outputs[1 + which])
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, present: ir.Value) -> ir.Value:
        """The output of the operator."""
        return present


def _same_tokens(heads: ir.Value | None, merged: ir.Value | None) -> bool:
    """True if the heads are the merged value, split and transposed, or the other way round."""
    if heads is None or merged is None:
        return False
    transpose = producer_of(heads, "Transpose")
    split = None if transpose is None else producer_of(transpose.inputs[0], "Reshape")
    if split is not None and split.inputs[0] is merged:
        return True
    flat = producer_of(merged, "Reshape")
    swapped = None if flat is None else producer_of(flat.inputs[0], "Transpose")
    return swapped is not None and swapped.inputs[0] is heads


def _as_heads(op: Any, merged: ir.Value, plan: Plan) -> ir.Value:
    """The merged output as the heads that the graph goes on with; rows of NaN as zeros."""
    attention = plan.attention
    batch, heads, sequence = plan.scores[:3]
    size = known_size(attention.value, 3)
    assert isinstance(heads, int)
    typed(merged, attention.output, (batch, sequence, heads * size))
    if attention.guarded:
        dtype = attention.output.dtype
        assert dtype is not None
        zero = op.initializer(ir.Tensor(np.asarray(0.0).astype(dtype.numpy()), dtype=dtype), "zero")
        unguarded = merged
        merged = typed(op.Where(op.IsNaN(merged), zero, merged), merged, dims(unguarded))
    split = typed(
        op.Reshape(merged, integers(op, [0, 0, heads, size])),
        merged,
        (batch, sequence, heads, size),
    )
    split_heads = typed(
        op.Transpose(split, perm=[0, 2, 1, 3]), merged, (batch, heads, sequence, size)
    )
    return as_output(op, split_heads, plan)


def as_output(op: Any, heads: ir.Value, plan: Plan) -> ir.Value:
    """Heads as the graph goes on with them: batch and heads joined where they were."""
    output = plan.attention.output
    if rank(output) != 3:
        return typed(heads, output, dims(output))
    size = known_size(plan.attention.value, 3)
    target = op.Concat(integers(op, [-1]), plan.lengths.sequence(op), integers(op, [size]), axis=0)
    return typed(op.Reshape(heads, target), output, dims(output))

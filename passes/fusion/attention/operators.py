"""The rules that put a fused operator in the place of attention in canonical form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult

from onnxopt.graph import symbolic
from onnxopt.graph.values import constant, dims, opset_version
from onnxopt.passes.cleanup.single_node import NodeRule, found, no_match, producer_of, refuse
from onnxopt.passes.fusion.attention.bias import bias_shape, emit_bias
from onnxopt.passes.fusion.attention.grouped import Cached, cached, ungrouped
from onnxopt.passes.fusion.attention.heads import Heads, typed
from onnxopt.passes.fusion.attention.lengths import Lengths, integers
from onnxopt.passes.fusion.attention.masks import Window, is_causal
from onnxopt.passes.fusion.attention.scores import Attention, UnlikeError, read_attention

DOMAIN = "com.microsoft"
_HALVES_AND_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_INT32 = ir.DataType.INT32


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attention with all that a fused operator needs to know.

    Attributes:
        attention: The canonical form.
        key: Heads of the key, each once.
        value: Heads of the value, each once.
        past: The caches of keys and values; None without them.
        scores: `(batch, heads, sequence, time)`.
        lengths: Where sizes come from.
    """

    attention: Attention
    key: Heads
    value: Heads
    past: tuple[Cached, Cached] | None
    scores: tuple[int | str | None, ...]
    lengths: Lengths

    @property
    def heads(self) -> int:
        """Query heads."""
        return _known(self.attention.query, 1)

    @property
    def key_heads(self) -> int:
        """Key heads, at most as many."""
        return _known(self.key, 1)

    @property
    def new(self) -> tuple[Heads, Heads]:
        """Keys and values of the new tokens alone."""
        return (self.key, self.value) if self.past is None else (self.past[0].new, self.past[1].new)


def plan_of(node: ir.Node, model: ir.Model) -> Plan | None:
    """The plan for the attention that ends at a MatMul, or None where there is none.

    Raises:
        UnlikeError: It is almost attention.
    """
    attention = read_attention(node)
    if attention is None:
        return None
    (key, groups), (value, more) = ungrouped(attention.key), ungrouped(attention.value)
    query, shape, own = attention.query.shape, key.shape, value.shape
    if query is None or shape is None or own is None:
        raise UnlikeError("the shapes of query, key and value are not known")
    if not all(isinstance(size, int) for size in (query[1], shape[1], query[3], shape[3], own[3])):
        raise UnlikeError("the number of heads or their size is not known")
    if groups != more or query[1] != _known(key, 1) * groups or shape[1] != own[1]:
        raise UnlikeError(f"{query[1]} query heads do not share {shape[1]} key heads evenly")
    if attention.query.value.dtype not in _HALVES_AND_FLOATS or shape[3] != query[3]:
        raise UnlikeError("the type or the size of the heads is none that fused operators take")
    caches = cached(key), cached(value)
    past = None if caches[0] is None or caches[1] is None else (caches[0], caches[1])
    scores = (query[0], query[1], query[2], _time(key, past))
    bias_shape(attention.masks, scores)
    lengths = Lengths(
        query=_sized(attention.query),
        key=_sized(key if past is None else past[0].new),
        past=None if past is None else past[0].past,
        inputs=[one for one in model.graph.inputs if not one.is_initializer()],
        opset=opset_version(node, model),
    )
    return Plan(attention, key, value, past, scores, lengths)


class _AttentionRule(NodeRule):
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


class GroupQuery(_AttentionRule):
    """Causal attention with a cache becomes GroupQueryAttention."""

    def unfit(self, plan: Plan) -> str | None:
        """It is causal by itself, so the masks have to be, and appends to the cache."""
        if plan.past is None:
            return ""
        past, sequence = _size(plan.past[0].past, 2), plan.scores[2]
        if past is None or sequence is None:
            return "the length of the cache is not known"
        window = Window(past, sequence)
        if not any(is_causal(mask, window) for mask in plan.attention.masks):
            return "the mask is not provably causal, which GroupQueryAttention is"
        if _known(plan.key, 3) != _known(plan.value, 3):
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


class MultiHead(_AttentionRule):
    """Attention of any kind becomes MultiHeadAttention."""

    def unfit(self, plan: Plan) -> str | None:
        """It has as many key heads as query heads and knows no cap."""
        if plan.attention.cap:
            return "the scores are capped, which MultiHeadAttention does not do"
        if plan.key_heads != plan.heads:
            return "query heads share key heads, which MultiHeadAttention does not know"
        return None

    def rewrite(self, op: Any, root: ir.Value, plan: Plan) -> ir.Value:
        """The operator, and its output as heads again."""
        attention = plan.attention
        dtype = attention.query.value.dtype
        assert dtype is not None
        new_key, new_value = plan.new
        caches = () if plan.past is None else tuple(cache.past for cache in plan.past)
        outputs = op.MultiHeadAttention(
            attention.query.merged(op, "merged_query"),
            new_key.merged(op, "merged_key"),
            new_value.merged(op, "merged_value"),
            None,
            None,
            emit_bias(op, attention.masks, plan.scores, dtype, plan.lengths),
            *caches,
            num_heads=plan.heads,
            scale=attention.scale,
            _domain=DOMAIN,
            _outputs=3 if caches else 1,
        )
        if not caches:
            return _as_heads(op, outputs, plan)
        for value, cache in zip(outputs[1:], plan.past or (), strict=True):
            typed(value, cache.present, dims(cache.present))
        return _as_heads(op, outputs[0], plan)


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
            if user.domain != DOMAIN or len(user.outputs) != 3:
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
    size = _known(attention.value, 3)
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
    return typed(op.Transpose(split, perm=[0, 2, 1, 3]), merged, dims(attention.output))


def _known(heads: Heads, axis: int) -> int:
    shape = heads.shape
    size = None if shape is None else shape[axis]
    assert isinstance(size, int)
    return size


def _time(key: Heads, past: tuple[Cached, Cached] | None) -> int | str | None:
    """Keys in all, by their parts where they have some: outputs are declared with any symbol."""
    if past is None:
        return None if key.shape is None else key.shape[2]
    before, new = _size(past[0].past, 2), past[0].new.shape
    if before is None or new is None or new[2] is None:
        return None
    return symbolic.add(before, new[2])


def _size(value: ir.Value, axis: int) -> int | str | None:
    shape = dims(value)
    return None if shape is None else shape[axis]


def _sized(heads: Heads) -> tuple[ir.Value, int]:
    """A value with the batch as its first axis, and its axis of time."""
    return heads.value, 1 if heads.split else 2

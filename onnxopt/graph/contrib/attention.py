"""Attention in all its packings, with the caches that it appends to.

B batch, S new tokens, L keys, P cached, T = P + L, N heads, H size of a head, D = N * H
"""

from __future__ import annotations

from onnxopt.graph import symbolic
from onnxopt.graph.contrib.rules import (
    FactRule,
    fact_of,
    length,
    multiple,
    named,
    same,
    shape_of,
    share,
)
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import Dims, RuleInputs
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute, ints_attribute


def _attention(past: int, like: int = 0) -> FactRule:
    """Input `[B, S, .]` and the packed weights of query, key and value.

    Args:
        past: The input `[2, B, N, P, H]` with the cache of keys and values.
        like: The input with the type of the outputs.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        dtype = fact_of(inputs, like).dtype
        data, width = shape_of(inputs, 0, 3), _value_width(inputs)
        if data is None:
            return [Fact(dtype, None), Fact(dtype, None)]
        output = Fact(dtype, (*data[:2], inputs.named(width)))
        cache = shape_of(inputs, past, 5)
        if cache is not None:
            total = _total(inputs, cache[3], data[1])
            return [output, Fact(dtype, (*cache[:3], inputs.named(total), cache[4]))]
        heads = int_attribute(inputs.node, "num_heads", 0)
        size = None if width is None else share(width, heads)
        return [output, Fact(dtype, (2, data[0], heads, data[1], inputs.named(size)))]

    return rule


def _value_width(inputs: RuleInputs) -> Dim | None:
    sizes = ints_attribute(inputs.node, "qkv_hidden_sizes")
    if sizes and len(sizes) == 3:
        return sizes[2]
    weights = shape_of(inputs, 1, 2)
    return None if weights is None else share(weights[1], 3)


def _total(inputs: RuleInputs, past: Dim, new: Dim) -> Dim | None:
    """Length of the cache afterwards: the same if it is written in place."""
    if int_attribute(inputs.node, "past_present_share_buffer", 0):
        return past
    return symbolic.add(past, new)


def _packed_attention(inputs: RuleInputs) -> list[Fact]:
    data, dtype = shape_of(inputs, 0, 2), fact_of(inputs, 0).dtype
    if data is None:
        return [Fact(dtype, None)]
    return [Fact(dtype, (data[0], inputs.named(_value_width(inputs))))]


def _multi_head(past: int, *, packs_flat: bool = False, in_place: int | None = None) -> FactRule:
    """Query, key and value apart, or packed in one or two of them.

    Args:
        past: The cached keys `[B, N, P, H]`, with the values after them.
        packs_flat: A query alone is `[B, S, 3 * D]`.
        in_place: The input with the number of cached tokens, whose presence means that the cache
            is written in place.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        dtype = fact_of(inputs, 0).dtype
        query, heads = inputs.dims(0), int_attribute(inputs.node, "num_heads", 0)
        if query is None or len(query) not in (3, 5):
            return [Fact(dtype, None)] * 4
        width, keys = _width_and_keys(inputs, query, packs_flat)
        facts = [Fact(dtype, (*query[:2], inputs.named(width)))]
        total: Dim | None = keys
        for which in (0, 1):
            cache = shape_of(inputs, past + which, 4)
            if cache is None:
                size = None if width is None else share(width, heads)
                dims: Dims | None = named(inputs, (query[0], heads, keys, size))
            else:
                kept = in_place is not None and inputs.has(in_place)
                new = query[1] if keys is None else keys
                total = cache[2] if kept else _total(inputs, cache[2], new)
                dims = named(inputs, (*cache[:2], total, cache[3]))
            facts.append(Fact(dtype, dims))
        return [*facts, Fact(dtype, named(inputs, (query[0], heads, query[1], total)))]

    return rule


def _width_and_keys(
    inputs: RuleInputs, query: Dims, packs_flat: bool
) -> tuple[Dim | None, Dim | None]:
    """Width of the output, and how many keys there are without those in the cache."""
    key, value = inputs.dims(1), inputs.dims(2)
    if len(query) == 5:  # [B, S, N, 3, H]
        return symbolic.mul(query[2], query[4]), query[1]
    if value is not None and len(value) == 3:
        return value[2], value[1]
    if value is not None and len(value) == 4:  # [B, N, L, H]
        return symbolic.mul(value[1], value[3]), value[2]
    if key is not None and len(key) == 5:  # [B, L, N, 2, H]
        return query[2], key[1]
    if packs_flat and not inputs.has(1):
        return share(query[2], 3), query[1]
    return None, None


def _packed_multi_head(inputs: RuleInputs) -> list[Fact]:
    """Tokens of all sequences one after the other: `[tokens, D]` or `[tokens, N, 3, H]`."""
    query, value = fact_of(inputs, 0), shape_of(inputs, 2, 2)
    if query.dims is None or len(query.dims) not in (2, 4):
        return [Fact(query.dtype, None)]
    if len(query.dims) == 4:
        width = symbolic.mul(query.dims[1], query.dims[3])
    else:
        width = None if value is None else value[1]
    return [Fact(query.dtype, (query.dims[0], inputs.named(width)))]


def _group_query(total: int, *, in_place: bool = False) -> FactRule:
    """Query heads in groups that share a key head; a query alone is packed.

    Args:
        total: The input with the number of all tokens.
        in_place: The cache has its final length.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        query = fact_of(inputs, 0)
        heads = int_attribute(inputs.node, "num_heads", 0)
        keys = int_attribute(inputs.node, "kv_num_heads", 0)
        data = shape_of(inputs, 0, 3)
        if data is None:
            return [Fact(query.dtype, None)]
        parts = heads if inputs.has(1) else heads + 2 * keys
        size = share(data[2], parts)
        width = data[2] if inputs.has(1) else None if size is None else multiple(size, heads)
        facts = [Fact(query.dtype, (*data[:2], inputs.named(width)))]
        count = length(inputs, total)
        for past in (3, 4):
            cached = fact_of(inputs, past)
            if cached.dims is None or len(cached.dims) != 4:
                after = data[1] if count is None else count
                made = None if inputs.has(past) else named(inputs, (data[0], keys, after, size))
                facts.append(Fact(cached.dtype or query.dtype, made))
                continue
            grown = cached.dims[2] if in_place else _grown(cached.dims[2], count)
            facts.append(
                Fact(cached.dtype, named(inputs, (*cached.dims[:2], grown, cached.dims[3])))
            )
        return facts

    return rule


def _grown(past: Dim, total: Dim | None) -> Dim | None:
    """A cache that is longer than all tokens keeps its length."""
    return None if total is None else symbolic.larger(past, total)


ATTENTION_RULES: dict[str, FactRule] = {
    "Attention": _attention(past=4),
    "DecoderMaskedMultiHeadAttention": _multi_head(past=5, packs_flat=True),
    "DecoderMaskedSelfAttention": _attention(past=4),
    "GroupQueryAttention": _group_query(total=6),
    "LongformerAttention": same(),
    "MultiHeadAttention": _multi_head(past=6, in_place=8),
    "PackedAttention": _packed_attention,
    "PackedMultiHeadAttention": _packed_multi_head,
    "QAttention": _attention(past=8, like=3),
    "RotaryEmbedding": same(),
    "SparseAttention": _group_query(total=7, in_place=True),
}

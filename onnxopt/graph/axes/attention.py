"""Fused attention: a unit is a head, or a key/value head with all query heads that read it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder, Slot
from onnxopt.graph.values import int_attribute, ints_attribute


def multi_head_attention(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft MultiHeadAttention with query, key and value as `[batch, length, features]`.

    The bias is that of query, key and value one after the other. Past and present keys and values,
    and packed forms, pin the heads.
    """
    heads = int_attribute(node, "num_heads", 1)
    _heads(builder, node, heads, heads, bias=3)


def group_query_attention(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft GroupQueryAttention: `kv_num_heads` key/value heads, shared by query heads."""
    heads = int_attribute(node, "num_heads", 1)
    _heads(builder, node, heads, int_attribute(node, "kv_num_heads", heads), bias=None)


def _heads(builder: AxisBuilder, node: ir.Node, heads: int, shared: int, bias: int | None) -> None:
    query, key, value = (node.inputs[i] if i < len(node.inputs) else None for i in range(3))
    output = node.outputs[0]
    if query is None or key is None or value is None:
        return
    if any(builder.rank(item) != 3 for item in (query, key, value)) or heads % shared:
        return
    unit = builder.variables.new(shared)
    widths = [builder.dims(item)[2] for item in (query, key, value)]
    sizes = [size for size in widths if isinstance(size, int)]
    if len(sizes) < 3:
        return
    for item, size in zip((query, key, value), sizes, strict=True):
        builder.tie_blocks(builder.axis(item, 2), unit, inner=size // shared)
    builder.join(output, 0, builder.axis(query, 0))
    made = builder.new_output_axis(output, 2)
    width = builder.dims(output)[2]
    assert isinstance(width, int)
    builder.tie_blocks(made, unit, inner=width // shared)
    packed = node.inputs[bias] if bias is not None and bias < len(node.inputs) else None
    if packed is not None:
        _stacked(builder, builder.axis(packed, 0), unit, sizes)
    rest = [v for i, v in enumerate(node.inputs) if i > 2 and i != bias and v is not None]
    for item in rest:
        if builder.rank(item) == 4 and builder.dims(item)[1] in (heads, shared):
            _by_head(builder, item, 1, unit)
    for other in node.outputs[1:]:
        if other.name and builder.rank(other) == 4:
            builder.tie_blocks(builder.new_output_axis(other, 1), unit, inner=1)


def _by_head(builder: AxisBuilder, value: ir.Value, index: int, unit: int) -> None:
    heads = builder.dims(value)[index]
    shared = builder.variables.sizes[unit]
    if isinstance(heads, int) and heads > 1:
        builder.tie_blocks(builder.axis(value, index), unit, inner=heads // shared)


def attention(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft Attention: `[in, 3 * features]` weights and a bias for all three."""
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None or len(node.outputs) > 1 or len(node.inputs) > 4:
        return
    heads = int_attribute(node, "num_heads", 1)
    builder.link(x, 2, weight, 0)
    builder.contract(weight, 0)
    total = builder.dims(weight)[1]
    if not isinstance(total, int):
        return
    sizes = ints_attribute(node, "qkv_hidden_sizes") or (total // 3,) * 3
    unit = builder.variables.new(heads)
    _stacked(builder, builder.axis(weight, 1), unit, sizes)
    if bias is not None:
        _stacked(builder, builder.axis(bias, 0), unit, sizes)
    builder.join(node.outputs[0], 0, builder.axis(x, 0))
    made = builder.new_output_axis(node.outputs[0], 2)
    builder.tie_blocks(made, unit, inner=sizes[2] // heads)


def _stacked(builder: AxisBuilder, slot: Slot, unit: int, sizes: Sequence[int]) -> None:
    """Ties an axis of query, key and value features, one after the other, to heads."""
    whole = builder.plain_slot(slot)
    if whole is None:
        return
    heads = builder.variables.sizes[unit]
    start = 0
    for size in sizes:
        positions = np.arange(size)
        builder.variables.tie(whole, positions + start, unit, positions // (size // heads))
        start += size


def rotary_embedding(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft RotaryEmbedding: heads stay, the features in each turn."""
    x, cache = node.inputs[0], node.inputs[2]
    assert x is not None
    assert cache is not None
    output = node.outputs[0]
    builder.join(output, 0, builder.axis(x, 0))
    if builder.rank(x) == 4:
        builder.join(output, 1, builder.axis(x, 1))
        return
    width, half = builder.dims(x)[2], builder.dims(cache)[1]
    heads = int_attribute(node, "num_heads", 0)
    if not heads and isinstance(width, int) and isinstance(half, int):
        heads = width // (2 * half)
    if heads > 1 and isinstance(width, int):
        unit = builder.variables.new(heads)
        builder.tie_blocks(builder.axis(x, 2), unit, inner=width // heads)
        builder.tie_blocks(builder.new_output_axis(output, 2), unit, inner=width // heads)

"""Query heads that share a key head, handed over as more queries of that one head.

    queries, output   [batch, sequence, groups * n * size] <-> [batch, n * sequence, groups * size]
    bias              [batch, 1, sequence, time]            -> [batch, 1, n * sequence, time]

MultiHeadAttention wants as many key heads as query heads. Attention treats every query for itself,
so the n query heads on one key head may as well be n times as many queries of one head: keys and
values, the cache included, are then read as they are instead of being repeated n times, and any
batch, any number of new tokens and any mask stay possible, unlike with GroupQueryAttention. With
one new token the change of layout moves a single row.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import dims
from onnxopt.passes.fusion.attention.heads import Shape, typed
from onnxopt.passes.fusion.attention.lengths import integers


def fold_queries(op: Any, merged: ir.Value, scores: Shape, groups: int, size: int) -> ir.Value:
    """`[batch, n * sequence, groups * size]` of the merged query heads."""
    batch, sequence, each = scores[0], scores[2], _each(scores, groups)
    split = typed(
        op.Reshape(merged, integers(op, [0, 0, groups, each, size])),
        merged,
        (batch, sequence, groups, each, size),
    )
    swapped = typed(
        op.Transpose(split, perm=[0, 3, 1, 2, 4]), merged, (batch, each, sequence, groups, size)
    )
    return typed(
        op.Reshape(swapped, integers(op, [0, -1, groups * size])),
        merged,
        (batch, _rows(scores, groups), groups * size),
    )


def unfold_output(op: Any, folded: ir.Value, scores: Shape, groups: int, size: int) -> ir.Value:
    """`[batch, sequence, groups * n * size]` of what attention makes of folded queries."""
    batch, sequence, each = scores[0], scores[2], _each(scores, groups)
    typed(folded, folded, (batch, _rows(scores, groups), groups * size))
    split = typed(
        op.Reshape(folded, integers(op, [0, each, -1, groups, size])),
        folded,
        (batch, each, sequence, groups, size),
    )
    swapped = typed(
        op.Transpose(split, perm=[0, 2, 3, 1, 4]), folded, (batch, sequence, groups, each, size)
    )
    return typed(
        op.Reshape(swapped, integers(op, [0, 0, groups * each * size])),
        folded,
        (batch, sequence, groups * each * size),
    )


def fold_bias(op: Any, bias: ir.Value | None, scores: Shape, groups: int) -> ir.Value | None:
    """The bias of folded queries: once for every head that shares, or that of each head."""
    shape = None if bias is None else dims(bias)
    if bias is None or shape is None:
        return None
    target = (shape[0], 1 if shape[1] == 1 else groups, _rows(scores, groups), shape[3])
    if shape[1] == 1:
        return typed(op.Tile(bias, integers(op, [1, 1, _each(scores, groups), 1])), bias, target)
    return typed(op.Reshape(bias, integers(op, [0, groups, -1, 0])), bias, target)


def _each(scores: Shape, groups: int) -> int:
    heads = scores[1]
    assert isinstance(heads, int)
    return heads // groups


def _rows(scores: Shape, groups: int) -> int | str | None:
    return None if scores[2] is None else symbolic.mul(_each(scores, groups), scores[2])

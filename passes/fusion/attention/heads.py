"""Heads of attention in a canonical layout, whatever spelling led to it.

    heads     [batch, heads, sequence, size]     what MatMul multiplies
    merged    [batch, sequence, heads * size]    what fused operators read and projections make

    Transpose(0, 2, 1, 3)(Reshape(merged))   is heads, and so is
    a Reshape of [batch * heads, sequence, size], which is heads with the first axes joined.

Where a value is not made from merged ones, nodes are emitted that merge it: a Transpose and a
Reshape, which the cleanup passes cancel against what is there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import dims, ints_attribute, rank
from onnxopt.passes.cleanup.single_node import producer_of

_SWAP_LAST = (0, 1, 3, 2)
_SWAP_MIDDLE = (0, 2, 1, 3)
_SPLIT_TO_TRANSPOSED = (0, 2, 3, 1)
Shape = tuple[int | str | None, ...]
# What neither moves nor changes a number; a Cast is one where only precision differs.
_PLAIN = ("Identity", "Cast", "Dropout")


@dataclasses.dataclass(frozen=True)
class Heads:
    """An operand of attention.

    Attributes:
        value: `[batch, heads, sequence, size]`, or with `split` as it is before the Transpose:
            `[batch, sequence, heads, size]`.
        split: Heads are the third axis.
    """

    value: ir.Value
    split: bool = False

    @property
    def shape(self) -> tuple[int | str | None, ...] | None:
        """`(batch, heads, sequence, size)`, or None without a rank of 4."""
        shape = dims(self.value)
        if shape is None or len(shape) != 4:
            return None
        return (shape[0], shape[2], shape[1], shape[3]) if self.split else shape

    @property
    def is_made_of_merged(self) -> bool:
        """True if a Transpose makes the heads out of what `merged` returns."""
        transpose = producer_of(self.value, "Transpose")
        return self.split or (
            transpose is not None and ints_attribute(transpose, "perm") == _SWAP_MIDDLE
        )

    def merged(self, op: Any, name: str) -> ir.Value:
        """`[batch, sequence, heads * size]`."""
        value = self.value
        if not self.split:
            transpose = producer_of(value, "Transpose")
            if transpose is not None and ints_attribute(transpose, "perm") == _SWAP_MIDDLE:
                source = transpose.inputs[0]
                assert source is not None
                value = source
            else:
                value = typed(op.Transpose(value, perm=_SWAP_MIDDLE), value, self._split_shape())
        reshape = producer_of(value, "Reshape")
        flat = self._flat_shape()
        if reshape is not None and flat is not None:
            source = reshape.inputs[0]
            if source is not None and rank(source) == 3 and dims(source) == flat:
                return source
        target = op.initializer(ir.tensor(np.array([0, 0, self._width()], np.int64)), name=name)
        return typed(op.Reshape(value, target), value, flat)

    def transposed(self, op: Any) -> ir.Value:
        """`[batch, heads, sequence, size]`."""
        if not self.split:
            return self.value
        return typed(op.Transpose(self.value, perm=_SWAP_MIDDLE), self.value, self.shape)

    def _width(self) -> int:
        shape = self.shape
        assert shape is not None
        heads, size = shape[1], shape[3]
        return heads * size if isinstance(heads, int) and isinstance(size, int) else -1

    def _split_shape(self) -> tuple[int | str | None, ...] | None:
        shape = self.shape
        return None if shape is None else (shape[0], shape[2], shape[1], shape[3])

    def _flat_shape(self) -> tuple[int | str | None, ...] | None:
        shape, width = self.shape, self._width()
        return None if shape is None or width < 0 else (shape[0], shape[2], width)


def typed(value: ir.Value, like: ir.Value, shape: tuple[int | str | None, ...] | None) -> ir.Value:
    """The new value with the type of another and the given shape, so that later rules see them."""
    value.type = like.type
    value.shape = None if shape is None else ir.Shape(shape)
    return value


def plain(value: ir.Value | None) -> ir.Value | None:
    """What is behind Identity, Dropout in evaluation and Cast between float types."""
    while value is not None:
        node = producer_of(value, *_PLAIN)
        if node is None or value is not node.outputs[0]:
            return value
        source = node.inputs[0]
        if source is None or not _is_float(source) or not _is_float(value):
            return value
        value = source
    return None


def query_heads(value: ir.Value) -> Heads | None:
    """The heads that a query or value operand of rank 4 holds, or one of rank 3 that joins them."""
    if rank(value) == 3:
        # Einsum may have transposed its operand before it joined the axes, and does so again.
        back = _behind_swap(value)
        transposed = None if back is None else _unjoined_heads(back)
        if transposed is not None:
            return key_heads(transposed.value)
        return _unjoined_heads(value)
    return Heads(value) if rank(value) == 4 else None


def joins_heads(wide: Shape | None, narrow: Shape | None) -> bool:
    """True if one shape is `[batch, heads, a, b]` and the other `[batch * heads, a, b]`."""
    return (
        wide is not None
        and narrow is not None
        and (len(wide), len(narrow)) == (4, 3)
        and all(
            a is not None and b is not None and symbolic.equal(a, b)
            for a, b in zip(wide[2:], narrow[1:], strict=True)
        )
    )


def _behind_swap(value: ir.Value) -> ir.Value | None:
    """What a Transpose of the last two of three axes makes the value of."""
    node = producer_of(value, "Transpose")
    swaps = node is not None and ints_attribute(node, "perm") == (0, 2, 1)
    return node.inputs[0] if node is not None and swaps else None


def _unjoined_heads(value: ir.Value) -> Heads | None:
    """The heads behind a Reshape that joins the batch and them."""
    reshape = producer_of(value, "Reshape")
    source = None if reshape is None else reshape.inputs[0]
    if source is None or not joins_heads(dims(source), dims(value)):
        return None
    return Heads(source)


def key_heads(value: ir.Value) -> Heads | None:
    """The heads of a key operand `[batch, heads, size, sequence]`, before it was transposed.

    Batch and heads may be joined, before the Transpose or after it.
    """
    node = producer_of(value, "Transpose")
    if rank(value) == 3:
        back = _behind_swap(value)
        if back is not None:
            return _unjoined_heads(back)
        heads = _unjoined_heads(value)
        return None if heads is None else key_heads(heads.value)
    if rank(value) != 4:
        return None
    if node is None or node.inputs[0] is None:
        joined = _transposed_joined(value)
        return None if joined is None else Heads(joined)
    perm = ints_attribute(node, "perm")
    if perm == _SWAP_LAST:
        return Heads(node.inputs[0])
    return Heads(node.inputs[0], split=True) if perm == _SPLIT_TO_TRANSPOSED else None


def _transposed_joined(value: ir.Value) -> ir.Value | None:
    """The x of Reshape(Transpose(Reshape(x, [b * h, t, d]), (0, 2, 1)), [b, h, d, t]).

    Declared outputs may name a sum of symbols in another order: sizes are compared as such.
    """
    outer = producer_of(value, "Reshape")
    transpose = None if outer is None else producer_of(outer.inputs[0], "Transpose")
    if transpose is None or ints_attribute(transpose, "perm") != (0, 2, 1):
        return None
    inner = producer_of(transpose.inputs[0], "Reshape")
    source = None if inner is None else inner.inputs[0]
    before, joined, after = dims(source), dims(transpose.inputs[0]), dims(value)
    if before is None or joined is None or after is None or len(before) != 4 or len(after) != 4:
        return None
    pairs = (
        (before[1], after[1]), (before[2], joined[1]), (before[3], joined[2]),
        (joined[2], after[2]), (joined[1], after[3]),
    )  # fmt: skip
    if all(a is not None and b is not None and symbolic.equal(a, b) for a, b in pairs):
        return source
    return None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype in (
        ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE,
    )  # fmt: skip

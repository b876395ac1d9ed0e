"""Sizes of a batch, of its sequences and of their cache, as values of the graph.

They are read from graph inputs where one has the dimension, so that every layer of a model computes
them the same way and one computation is left after common subexpressions are merged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.graph.values import dims


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Where the sizes that a fused operator needs come from.

    Attributes:
        query: A value with the batch as its first axis, and its axis of new tokens.
        key: A value and its axis of new keys.
        past: `[batch, heads, past, size]`, or None without a cache.
        inputs: The inputs of the main graph.
        opset: Version of the default domain.
    """

    query: tuple[ir.Value, int]
    key: tuple[ir.Value, int]
    past: ir.Value | None
    inputs: Sequence[ir.Value]
    opset: int

    def batch(self, op: Any) -> ir.Value:
        """`[1]`: sequences in a batch."""
        return self.size(op, self.query[0], 0)

    def sequence(self, op: Any) -> ir.Value:
        """`[1]`: new tokens."""
        return self.size(op, *self.query)

    def total(self, op: Any) -> ir.Value:
        """`[1]`: keys in the cache and new ones."""
        new = self.size(op, *self.key)
        if self.past is None:
            return new
        return _integers(op.Add(self.size(op, self.past, 2), new))

    def size(self, op: Any, value: ir.Value, axis: int) -> ir.Value:
        """`[1]`: one dimension of a value; axes count from 0."""
        shape = dims(value)
        size = None if shape is None else shape[axis]
        if isinstance(size, int):
            return integers(op, [size])
        for source in self.inputs:
            known = dims(source)
            if size is not None and known is not None and size in known:
                value, axis = source, known.index(size)
                break
        if self.opset >= 15:
            return _integers(op.Shape(value, start=axis, end=axis + 1))
        return _integers(op.Gather(op.Shape(value), integers(op, [axis]), axis=0))


def integers(op: Any, items: Sequence[int]) -> ir.Value:
    """A constant vector of int64."""
    array = np.array(items, np.int64)
    value: ir.Value = op.initializer(ir.tensor(array), name="integers")
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape(array.shape)
    return value


def scalar(op: Any, item: int) -> ir.Value:
    """A constant int64 without axes."""
    value: ir.Value = op.initializer(ir.tensor(np.array(item, np.int64)), name="integer")
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape([])
    return value


def _integers(value: ir.Value) -> ir.Value:
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape([1])
    return value

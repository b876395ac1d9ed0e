"""Parts of a value on its last axis, and tables whose halves on that axis are equal.

    Cos(Concat(a, a))    has two equal halves, and each of them is Cos(a)

Unsqueeze of other axes, Cast and a factor around it change nothing about that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxopt.graph.values import constant, constant_ints, dims, int_attribute, rank
from onnxopt.passes.cleanup.single_node import has_input, ints_parameter, producer_of
from onnxopt.passes.fusion.attention.heads import typed
from onnxopt.passes.fusion.polynomials import number

_UNARY = ("Cos", "Sin", "Cast", "Identity")
_SCALING = ("Mul", "Div")


class Part(NamedTuple):
    """`source[..., start:end]`."""

    source: ir.Value
    start: int
    end: int


def part_of(value: ir.Value | None) -> Part | None:
    """The part that a Slice with step 1, or a Split, takes from the last axis of known size."""
    node = producer_of(value, "Slice", "Split")
    source = None if node is None else node.inputs[0]
    shape = dims(source)
    if node is None or source is None or not shape or not isinstance(shape[-1], int):
        return None
    width, last = shape[-1], len(shape) - 1
    if node.op_type == "Slice":
        return _sliced(node, source, width, last)
    if int_attribute(node, "axis", 0) % len(shape) != last:
        return None
    sizes = ints_parameter(node, "split", 1) or (width // len(node.outputs),) * len(node.outputs)
    if sum(sizes) != width or len(sizes) != len(node.outputs):
        return None
    place = next(index for index, output in enumerate(node.outputs) if output is value)
    start = sum(sizes[:place])
    return Part(source, start, start + sizes[place])


def half_shape(
    value: ir.Value, width: int, *, split: bool
) -> tuple[int | str | None, int | str | None, int] | None:
    """`(batch, sequence, width / 2)` of one half of a table, or None if the halves may differ.

    Args:
        value: `[batch or 1, 1, sequence, width]`, or with fewer axes.
        width: Size of the last axis.
        split: Heads are the third axis: `[batch or 1, sequence, 1, width]`.
    """
    shape = dims(value)
    if shape is None or not 2 <= len(shape) <= 4 or shape[-1] != width or width % 2:
        return None
    batch, *lead = ((1,) * (4 - len(shape)) + shape)[:-1]
    sequence, heads = lead if split else lead[::-1]
    return (batch, sequence, width // 2) if heads == 1 and _has_equal_halves(value) else None


def write_half(op: Any, value: ir.Value) -> ir.Value:
    """One half of a table for which `half_shape` found a shape, as `[..., sequence, width / 2]`."""
    array = constant(value)
    if array is not None:
        half = np.ascontiguousarray(array[..., : array.shape[-1] // 2])
        made: ir.Value = op.initializer(ir.tensor(half), name="half")
        return typed(made, value, half.shape)
    node = value.producer()
    assert node is not None
    if node.op_type == "Concat":
        source = node.inputs[0]
        assert source is not None
        return source
    if node.op_type == "Unsqueeze":
        assert node.inputs[0] is not None
        return write_half(op, node.inputs[0])
    index = _computed_input(node)
    source = node.inputs[index]
    assert source is not None
    inner = write_half(op, source)
    operands = [inner if place == index else item for place, item in enumerate(node.inputs)]
    result = getattr(op, node.op_type)(*operands, **node.attributes)
    return typed(result, value, dims(inner))


def _has_equal_halves(value: ir.Value | None) -> bool:
    array = constant(value)
    if array is not None:
        first, second = np.split(array, 2, axis=-1)
        return bool(np.array_equal(first, second))
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Concat":
        last = (rank(value) or 0) - 1
        same = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return same and last >= 1 and int_attribute(node, "axis", 0) % (last + 1) == last
    if node.op_type == "Unsqueeze":
        axes, size = ints_parameter(node, "axes", 1), rank(value)
        if not axes or size is None or any(axis % size == size - 1 for axis in axes):
            return False
        return _has_equal_halves(node.inputs[0])
    if node.op_type in _UNARY:
        return _has_equal_halves(node.inputs[0])
    if node.op_type in _SCALING and any(number(one) is not None for one in node.inputs):
        return _has_equal_halves(node.inputs[_computed_input(node)])
    return False


def _computed_input(node: ir.Node) -> int:
    return 1 if node.op_type in _SCALING and number(node.inputs[0]) is not None else 0


def _sliced(node: ir.Node, source: ir.Value, width: int, last: int) -> Part | None:
    starts, ends = (ints_parameter(node, n, i) for n, i in (("starts", 1), ("ends", 2)))
    axes = ints_parameter(node, "axes", 3)
    steps = constant_ints(node.inputs[4]) if has_input(node, 4) else (1,)
    if not starts or not ends or len(starts) != 1 or steps != (1,):
        return None
    if axes is None or (axes or (0,))[0] % (last + 1) != last:
        return None
    start, end = (
        min(max(item + width if item < 0 else item, 0), width) for item in (starts[0], ends[0])
    )
    return Part(source, start, end) if start < end else None

"""Masks of attention as the one additive bias that fused operators take.

    [batch or 1, heads or 1, sequence, time]

Boolean masks become `Where(keep, 0, fill)`. What is the same for every layer is computed once:
equal nodes are merged by `EliminateCommonSubexpressions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.graph.values import dims, rank
from onnxopt.passes.fusion.attention.canonical import Mask, UnlikeError
from onnxopt.passes.fusion.attention.heads import Shape, typed
from onnxopt.passes.fusion.attention.lengths import Lengths, integers

# Stands for any finite fill where the type has it: the scores stay in the sum and must be lost in
# it, since a row that is masked out as a whole is the mean of all values; and the sum of several
# masks is still finite.
_LOSES_SCORES = -1e30


def bias_shape(masks: Sequence[Mask], scores: Shape) -> Shape:
    """The shape of the sum of masks, with as many axes as scores have.

    A symbol that is not that of the scores may be the same size or 1 when the model runs, or the
    graph could not have added it: such an axis is None.

    Raises:
        UnlikeError: Some mask does not fit scores of that shape.
    """
    total: list[int | str | None] = [1, 1, 1, 1]
    for mask in masks:
        shape = dims(mask.value)
        if mask.windowed:
            shape = _of_windows(mask)
        if shape is None or len(shape) > 4:
            raise UnlikeError(f"the shape of the mask {mask.value.name!r} is not known")
        for place, size in enumerate((1,) * (4 - len(shape)) + shape):
            if size == 1 or total[place] == scores[place]:
                continue
            wanted = scores[place]
            if size != wanted and isinstance(size, int) and isinstance(wanted, int):
                raise UnlikeError(
                    f"axis {place} of the mask {mask.value.name!r} is {size}, not {wanted}"
                )
            total[place] = size if size == wanted else None
    return tuple(total)


def emit_bias(
    op: Any, masks: Sequence[Mask], scores: Shape, dtype: ir.DataType, lengths: Lengths
) -> ir.Value | None:
    """The sum of all masks in full size over the last two axes; None without masks."""
    total: ir.Value | None = None
    for mask in masks:
        part = additive(op, mask, dtype, lengths)
        if total is not None:
            part = typed(op.Add(total, part), part, sum_shape(total, part))
        total = part
    if total is None:
        return None
    shape = bias_shape([Mask(total)], scores)
    if shape[2:] != scores[2:]:
        target = op.Concat(
            op.initializer(ir.tensor(np.array([1, 1], np.int64)), name="ones"),
            lengths.sequence(op), lengths.total(op), axis=0,
        )  # fmt: skip
        total = typed(op.Expand(total, target), total, (*shape[:2], *scores[2:]))
    return total


def sum_shape(one: ir.Value, other: ir.Value) -> Shape | None:
    """The shape of the sum of two masks of rank 4; None where a size is not known."""
    first, second = dims(one), dims(other)
    if first is None or second is None:
        return None
    return tuple(
        a if b == 1 else b if a == 1 or a == b else None for a, b in zip(first, second, strict=True)
    )


def _of_windows(mask: Mask) -> Shape:
    """`(1, heads or 1, sequence, time)` of a mask with an axis of windows.

    Raises:
        UnlikeError: It has other axes, or sizes that are not known.
    """
    shape = (dims(mask.value) or ())[-4:]
    lead = (dims(mask.value) or ())[:-4]
    if lead not in ((), (1,)) or len(shape) != 4:
        raise UnlikeError(f"the mask {mask.value.name!r} is not one for each window")
    if not all(isinstance(size, int) for size in shape[1:]):
        raise UnlikeError(f"the shape of the mask {mask.value.name!r} is not known")
    return (1, *shape[1:])


def additive(op: Any, mask: Mask, dtype: ir.DataType, lengths: Lengths) -> ir.Value:
    """A mask as what is added to the scores, of rank 4."""
    value = mask.value
    shape = dims(value)
    if mask.fill is not None:
        is_half = dtype == ir.DataType.FLOAT16
        fill = max(mask.fill, float(np.finfo(np.float16).min)) if is_half else _LOSES_SCORES
        low = _number(op, mask.fill if mask.fill == float("-inf") else fill, dtype)
        zero = _number(op, 0.0, dtype)
        sides = (zero, low) if mask.keep else (low, zero)
        value = typed(op.Where(value, *sides), zero, shape)
    elif value.dtype != dtype:
        value = op.Cast(value, to=dtype)
        value.dtype, value.shape = dtype, mask.value.shape
    if mask.factor != 1.0:
        value = typed(op.Mul(value, _number(op, mask.factor, dtype)), value, shape)
    if mask.windowed:
        return _repeated(op, value, mask, lengths)
    missing = 4 - (rank(value) or 0)
    if missing:
        value = _unsqueezed(op, value, missing, lengths.opset)
    return value


def _repeated(op: Any, value: ir.Value, mask: Mask, lengths: Lengths) -> ir.Value:
    """A mask of windows once for each image of the batch: `[batch, heads, sequence, time]`."""
    shape = _of_windows(mask)
    missing = 5 - (rank(value) or 0)
    if missing:
        value = _unsqueezed(op, value, missing, lengths.opset)
    windows = lengths.size(op, mask.value, (rank(mask.value) or 4) - 4)
    images = op.Div(lengths.batch(op), windows)
    target = op.Concat(images, integers(op, [1, 1, 1, 1]), axis=0)
    wide = op.Expand(value, target)
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    return typed(op.Reshape(wide, integers(op, [-1, *sizes])), value, (None, *shape[1:]))


def _unsqueezed(op: Any, value: ir.Value, count: int, opset: int) -> ir.Value:
    axes = list(range(count))
    shape = (1,) * count + (dims(value) or ())
    if opset < 13:
        return typed(op.Unsqueeze(value, axes=axes), value, shape)
    places = op.initializer(ir.tensor(np.array(axes, np.int64)), name="axes")
    return typed(op.Unsqueeze(value, places), value, shape)


def _number(op: Any, number: float, dtype: ir.DataType) -> ir.Value:
    array = np.asarray(number).astype(dtype.numpy())
    value: ir.Value = op.initializer(ir.Tensor(array, dtype=dtype), name="mask_number")
    value.dtype, value.shape = dtype, ir.Shape(())
    return value

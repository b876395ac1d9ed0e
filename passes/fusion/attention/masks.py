"""Masks of attention: proofs that one is causal, and one additive bias out of many.

A query at place i of the new tokens may see the keys up to place past + i. That a mask hides the
others follows from how it is made:

    Where(keep, 0, -inf)    (1 - keep) * -inf    Where(drop, -inf, scores)    sums of such
    keep = j <= i, And(j <= i, ...)              drop = j > i, Or(j > i, ...), Not(keep)

    keep = a constant triangle, cut at past + i (`triangles.py`)

with j the places of the keys, `Range(0, past + sequence)`, and i those of the queries,
`Range(past, past + sequence)`; Expand, Unsqueeze, Reshape and Cast between them change nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import constant, dims
from onnxopt.passes.cleanup.single_node import producer_of
from onnxopt.passes.fusion.attention.canonical import MASKED, Mask
from onnxopt.passes.fusion.attention.scalars import scalar
from onnxopt.passes.fusion.attention.triangles import is_triangle
from onnxopt.passes.fusion.polynomials import number

_THROUGH = ("Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Cast")
_MOST_DEPTH = 40
# keep is true where the first is at most the second: operator -> (swapped, strict)
_KEEPING = {"LessOrEqual": False, "GreaterOrEqual": True}
_DROPPING = {"Greater": False, "Less": True}


@dataclasses.dataclass(frozen=True)
class Window:
    """The sizes against which a mask is proven causal.

    Attributes:
        past: Tokens in the cache; 0 without one.
        sequence: New tokens.
    """

    past: int | str
    sequence: int | str


def is_causal(mask: Mask, window: Window) -> bool:
    """True if the mask provably hides every key after a query's own place."""
    if mask.fill is not None:
        return _hides(mask.value, window, keep=mask.keep)
    return mask.factor > 0 and _adds_causally(mask.value, window, mask.factor, 0)


def needed(masks: Sequence[Mask], window: Window) -> tuple[Mask, ...]:
    """The masks without those that hide only what comes after, where another one does so too."""
    cuts = [
        mask
        for mask in masks
        if mask.fill is not None
        and mask.keep
        and is_triangle(mask.value, window.past, window.sequence)
    ]
    others = tuple(mask for mask in masks if mask not in cuts)
    return others if any(is_causal(mask, window) for mask in others) else tuple(masks)


def _adds_causally(value: ir.Value | None, window: Window, factor: float, depth: int) -> bool:
    node = None if value is None else value.producer()
    array = constant(value)
    if array is not None and array.ndim >= 2 and window.past == 0:
        upper = np.triu(np.ones(array.shape[-2:], bool), 1)
        return bool(np.all(np.asarray(array * factor, np.float64)[..., upper] <= MASKED))
    if node is None or node.domain or depth > _MOST_DEPTH:
        return False
    if node.op_type in _THROUGH:
        return _keeps_square(node) and _adds_causally(node.inputs[0], window, factor, depth + 1)
    if node.op_type == "Add":
        return any(_adds_causally(one, window, factor, depth + 1) for one in node.inputs)
    if node.op_type == "Where":
        condition, first, second = node.inputs
        for fill, other, kept in ((second, first, True), (first, second, False)):
            low = number(fill)
            if low is not None and low * factor <= MASKED:
                return _hides(condition, window, keep=kept) or _adds_causally(
                    other, window, factor, depth + 1
                )
        return False
    if node.op_type == "Mul":
        for inverse, factored in (node.inputs, node.inputs[::-1]):
            amount = number(factored)
            difference = producer_of(inverse, "Sub")
            if amount is None or amount * factor > MASKED or difference is None:
                continue
            if number(difference.inputs[0]) == 1.0:
                return _hides(difference.inputs[1], window, keep=True)
    return False


def _hides(value: ir.Value | None, window: Window, *, keep: bool, depth: int = 0) -> bool:
    """True if a boolean mask hides what comes after; `keep` says what True stands for."""
    node = None if value is None else value.producer()
    if node is None or node.domain or depth > _MOST_DEPTH:
        return False
    if node.op_type in _THROUGH:
        return _keeps_square(node) and _hides(node.inputs[0], window, keep=keep, depth=depth + 1)
    if node.op_type == "Slice":
        return keep and is_triangle(value, window.past, window.sequence)
    if node.op_type == "Not":
        return _hides(node.inputs[0], window, keep=not keep, depth=depth + 1)
    if node.op_type == ("And" if keep else "Or"):
        return any(_hides(one, window, keep=keep, depth=depth + 1) for one in node.inputs)
    swapped = (_KEEPING if keep else _DROPPING).get(node.op_type)
    if swapped is None:
        return False
    keys, queries = node.inputs[::-1] if swapped else node.inputs
    return _counts(keys, -1, 0, window) and _counts(queries, -2, window.past, window)


def _keeps_square(node: ir.Node) -> bool:
    """True if the last two axes come out as they went in, or an Expand repeats them as they are."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if node.op_type in ("Identity", "Cast"):
        return True
    if before is None or after is None or len(before) < 2 or len(after) < 2:
        return False
    return before[-2:] == after[-2:] and None not in after[-2:]


def _counts(value: ir.Value | None, axis: int, start: int | str, window: Window) -> bool:
    """True if the value is `start, start + 1, ...` along an axis and the same along all others."""
    shape = dims(value)
    for _ in range(_MOST_DEPTH):
        node = None if value is None else value.producer()
        if node is None or node.domain:
            return False
        if node.op_type == "Range":
            break
        if node.op_type not in _THROUGH:
            return False
        value = node.inputs[0]
    else:
        return False
    if shape is None or (len(shape) < -axis and axis != -1):
        return False
    length = window.sequence if axis == -2 else symbolic.add(window.past, window.sequence)
    counted = dims(value)
    if counted != (shape[axis],) or shape[axis] != length:
        return False
    if any(size != 1 for place, size in enumerate(shape) if place != len(shape) + axis):
        return False
    first, step = scalar(node.inputs[0]), scalar(node.inputs[2])
    return first == start and step == 1

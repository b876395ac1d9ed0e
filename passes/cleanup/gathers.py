"""Gathers with constant indices, taken from where the elements come from.

    Gather(Gather(x, i), j)              -> Gather(x, i[j])        same axis, i is a list
    Gather(Slice(x, start), i)           -> Gather(x, start + i)   same axis, step 1
    Gather(Concat(x, y, ...), i)         -> Gather(y, i - offset)  i points into one part only
    Gather(Unsqueeze(x, a), 0, axis=a)   -> x
    Squeeze(Slice(x, [i:i+1]))           -> Gather(x, i)           a scalar index
    Squeeze(Split(x)[k])                 -> Gather(x, k)           every output is squeezed
    Unsqueeze(Gather(x, i), a)           -> Gather(x, [i])         i is a scalar, a its axis
    Unsqueeze(Gather(Shape(x), i), 0)    -> Shape(x, i:i+1)        opset 15 and later

Indices are constants. A negative index counts from the end of its own input; it is made positive
if that size is known, and the Gather is left alone otherwise.

Refused: the Squeeze of a Slice, and the Unsqueeze of a Gather, that others read too, since nothing
would be saved. A Gather with other readers is bypassed and stays for them. Several Gathers with
scalar indices over one tensor (q, k and v of an attention) stay as they are. Subgraphs are
rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, int_attribute, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    ints_parameter,
    no_match,
    only_user,
    producer_of,
)
from onnxopt.passes.cleanup.slices import TO_THE_END, slice_bounds

Indices = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a rule builds: a Gather, a Shape with a range, or (without indices) the value itself."""

    source: ir.Value
    axis: int = 0
    indices: Indices | None = None
    of_shape: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeGathers(RewritePass):
    """Takes constant Gathers from where their elements come from."""

    name: ClassVar[str] = "merge-gathers"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type."""
        return [
            _FromSource.rule("Gather", "gather-source"),
            _SqueezedElement.rule("Squeeze", "squeezed-element"),
            _UnsqueezedElement.rule("Unsqueeze", "unsqueezed-element"),
        ]


class _PlannedRule(NodeRule):
    """Finds a plan in `check` and builds it in `rewrite`."""

    def plan(self, node: ir.Node, version: int) -> _Plan | None:
        """What replaces the node, or None."""
        raise NotImplementedError

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Finds the plan."""
        plan = self.plan(context.root, opset_version(context.root, context.model))
        return no_match() if plan is None else found(plan=plan)

    def rewrite(self, op: Any, root: ir.Value, plan: _Plan) -> Any:
        """Builds it."""
        if plan.indices is None:
            return plan.source
        if plan.of_shape:
            start = int(plan.indices[0])
            end = {} if start == -1 else {"end": start + 1}
            return op.Shape(plan.source, start=start, **end)
        indices = op.initializer(ir.tensor(plan.indices), name=f"{root.name}_indices")
        return op.Gather(plan.source, indices, axis=plan.axis)


def _axis_of(node: ir.Node, value: ir.Value | None, default: int = 0) -> int | None:
    """The axis attribute of the node, counted from the front of `value`."""
    axis, size = int_attribute(node, "axis", default), rank(value)
    if axis < 0:
        return None if size is None else axis + size
    return axis


def _size(value: ir.Value | None, axis: int) -> int | None:
    shape = dims(value)
    size = None if shape is None or axis >= len(shape) else shape[axis]
    return size if isinstance(size, int) else None


def _front_indices(node: ir.Node, axis: int) -> Indices | None:
    """The constant indices of a Gather, counted from the front."""
    array = constant(node.inputs[1])
    if array is None or array.dtype.kind not in "iu":
        return None
    indices = array.astype(np.int64)
    if (indices < 0).any():
        size = _size(node.inputs[0], axis)
        if size is None:
            return None
        indices = np.where(indices < 0, indices + size, indices)
    return indices


class _FromSource(_PlannedRule):
    """A Gather of a Gather, Slice, Concat or Unsqueeze over the same axis."""

    def plan(self, node: ir.Node, version: int) -> _Plan | None:
        """Follows the data one step back."""
        inner = producer_of(node.inputs[0], "Gather", "Slice", "Concat", "Unsqueeze")
        axis = _axis_of(node, node.inputs[0])
        if inner is None or inner.inputs[0] is None or axis is None:
            return None
        indices = _front_indices(node, axis)
        if indices is None or indices.size == 0:
            return None
        if inner.op_type == "Gather":
            return _of_gather(inner, axis, indices)
        if inner.op_type == "Slice":
            return _of_slice(inner, axis, indices)
        if inner.op_type == "Concat":
            return _of_concat(inner, axis, indices)
        axes, size = ints_parameter(inner, "axes", 1), rank(node.inputs[0])
        alone = axes is not None and len(axes) == 1 and (axes[0] >= 0 or size is not None)
        if axes is None or not alone or indices.ndim:
            return None
        return _Plan(inner.inputs[0]) if axis == axes[0] % (size or axis + 1) else None


def _of_gather(inner: ir.Node, axis: int, indices: Indices) -> _Plan | None:
    inner_axis = _axis_of(inner, inner.inputs[0])
    first = None if inner_axis is None else _front_indices(inner, inner_axis)
    if first is None or first.ndim != 1 or axis != inner_axis or indices.max() >= first.size:
        return None
    assert inner.inputs[0] is not None
    return _Plan(inner.inputs[0], axis, first[indices])


def _of_slice(inner: ir.Node, axis: int, indices: Indices) -> _Plan | None:
    bounds = slice_bounds(inner)
    if bounds is None or list(bounds) != [axis] or bounds[axis].step != 1:
        return None
    start, size = bounds[axis].start, _size(inner.inputs[0], axis)
    if size is not None:
        start = bounds[axis].resolved(size).start
    if start < 0:
        return None
    assert inner.inputs[0] is not None
    return _Plan(inner.inputs[0], axis, indices + start)


def _of_concat(inner: ir.Node, axis: int, indices: Indices) -> _Plan | None:
    if _axis_of(inner, inner.outputs[0], 1) != axis:
        return None
    offset = 0
    for part in inner.inputs:
        size = _size(part, axis)
        if size is None or part is None:
            return None
        if indices.min() >= offset and indices.max() < offset + size:
            return _Plan(part, axis, indices - offset)
        offset += size
    return None


class _SqueezedElement(_PlannedRule):
    """A Squeeze of one element that a Slice or a Split cut out."""

    def plan(self, node: ir.Node, version: int) -> _Plan | None:
        """The position of the element."""
        value = node.inputs[0]
        inner = producer_of(value, "Slice", "Split")
        axes, size = ints_parameter(node, "axes", 1), rank(value)
        if inner is None or value is None or not axes or len(axes) != 1:
            return None
        if axes[0] < 0 and size is None:
            return None
        axis = axes[0] % (size or axes[0] + 1)
        source = inner.inputs[0]
        assert source is not None
        position = None
        if inner.op_type == "Slice" and only_user(value):
            position = _single_position(inner, axis)
        elif inner.op_type == "Split" and _all_squeezed(inner, axis):
            position = value.index()
        return None if position is None else _Plan(source, axis, np.array(position, np.int64))


def _single_position(node: ir.Node, axis: int) -> int | None:
    bounds = slice_bounds(node)
    if bounds is None or list(bounds) != [axis] or bounds[axis].step != 1:
        return None
    start, end = bounds[axis].start, bounds[axis].end
    last = start == -1 and end >= TO_THE_END
    return start if last or end == start + 1 != 0 else None


def _all_squeezed(split: ir.Node, axis: int) -> bool:
    """True if a Split cuts every element of the axis out and each is squeezed."""
    size = rank(split.inputs[0])
    if size is None or _axis_of(split, split.inputs[0]) != axis:
        return False
    if any(_size(value, axis) != 1 for value in split.outputs):
        return False
    users = [user for value in split.outputs for user, _ in value.uses()]
    return (
        not any(value.is_graph_output() for value in split.outputs)
        and all(len(value.uses()) <= 1 for value in split.outputs)
        and all(
            user.op_type == "Squeeze"
            and not user.domain
            and ints_parameter(user, "axes", 1) in ((axis,), (axis - size,))
            for user in users
        )
    )


class _UnsqueezedElement(_PlannedRule):
    """An Unsqueeze that brings back the axis that a scalar Gather took away."""

    def plan(self, node: ir.Node, version: int) -> _Plan | None:
        """The same element with a list of one index."""
        value = node.inputs[0]
        inner = producer_of(value, "Gather")
        axes = ints_parameter(node, "axes", 1)
        if inner is None or value is None or not axes or len(axes) != 1 or not only_user(value):
            return None
        source, indices = inner.inputs[0], constant(inner.inputs[1])
        axis, size = _axis_of(inner, inner.inputs[0]), rank(node.outputs[0])
        if source is None or indices is None or indices.ndim or axis is None:
            return None
        if axes[0] != axis and (size is None or axes[0] % size != axis):
            return None
        index = indices.astype(np.int64).reshape(1)
        shape = producer_of(source, "Shape")
        if shape is not None and version >= 15 and not shape.attributes:
            assert shape.inputs[0] is not None
            return _Plan(shape.inputs[0], 0, index, of_shape=True)
        return _Plan(source, axis, index)

"""Slices that follow each other become one.

    Slice(Slice(x, axes a), axes b) -> Slice(x, axes a + b)              different axes
    x[s1:e1][s2:e2]                 -> x[s1+s2 : min(e1, s1+e2)]         same axis, step 1
    Slice(Concat(x, y, ...), axis)  -> x                                 exactly one of the parts

Starts, ends and steps are constants. On the same axis a negative bound counts from the end of its
own input: it is resolved if that size is known, and merged as it is where it cannot matter (an end
of the first Slice that the second one leaves alone). Where the size is unknown, an end of INT32_MAX
or more means "to the end", as exporters write it: no axis is taken to be longer.

Refused: bounds on the same axis whose meaning depends on an unknown size; steps other than 1 on
the same axis; a first Slice that others than such Slices use, which would stay. Subgraphs are
rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import int_attribute, opset_version, rank, size_at
from onnxopt.passes.cleanup.single_node import (
    Bypass,
    NodeRule,
    found,
    ints_parameter,
    no_match,
    producer_of,
    refuse,
)

# From here on an end of a Slice means "to the end": exporters write INT32_MAX or INT64_MAX.
TO_THE_END = 2**31 - 1
_SHARED = "others read the result of the first Slice, so that it would stay"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeSlices(RewritePass):
    """Merges Slices that follow each other, and takes Slices of a Concat from its parts."""

    name: ClassVar[str] = "merge-slices"

    def rules(self) -> Sequence[RewriteRule]:
        """Two rules, both at the last Slice."""
        return [
            _Pair.rule("Slice", "slice-pair"),
            Bypass.rule("Slice", "slice-of-concat", _part_of_concat),
        ]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a Slice does to one axis."""

    start: int
    end: int
    step: int

    def resolved(self, size: int) -> Bounds:
        """With bounds between 0 and `size`, for step 1."""
        start, end = (bound + size if bound < 0 else bound for bound in (self.start, self.end))
        start = min(max(start, 0), size)
        return Bounds(start, max(min(max(end, 0), size), start), 1)


def slice_bounds(node: ir.Node) -> dict[int, Bounds] | None:
    """The bounds by axis, if all are constant and every axis can be counted from the front."""
    starts, ends = ints_parameter(node, "starts", 1), ints_parameter(node, "ends", 2)
    axes, steps = ints_parameter(node, "axes", 3), ints_parameter(node, "steps", 4)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    axes = axes or tuple(range(len(starts)))
    size = rank(node.inputs[0])
    if min(axes, default=0) < 0:
        if size is None:
            return None
        axes = tuple(axis % size for axis in axes)
    steps = steps or (1,) * len(starts)
    return dict(zip(axes, map(Bounds, starts, ends, steps), strict=True))


def _composed(first: Bounds, second: Bounds, size: int | str | None) -> Bounds | None:
    """One Slice of an axis of `size` for two, or None if it cannot be said."""
    if first.step != 1 or second.step != 1:
        return None
    if isinstance(size, int):
        outer = first.resolved(size)
        inner = second.resolved(outer.end - outer.start)
        return Bounds(outer.start + inner.start, outer.start + inner.end, 1)
    if first.start < 0 or second.start < 0:
        return None
    if second.end >= TO_THE_END:
        return Bounds(first.start + second.start, first.end, 1)
    if first.end < 0 or second.end < 0:
        return None
    end = min(first.end, first.start + second.end)
    return Bounds(first.start + second.start, end, 1)


def _merged(first: ir.Node, second: ir.Node) -> dict[int, Bounds] | str | None:
    """The bounds of one Slice for two; a text if they do not compose; None if not constant."""
    if second.op_type != "Slice" or second.domain or second.inputs[0] is not first.outputs[0]:
        return None
    merged, outer = slice_bounds(first), slice_bounds(second)
    if merged is None or outer is None:
        return None
    for axis, bounds in outer.items():
        if axis not in merged:
            merged[axis] = bounds
            continue
        both = _composed(merged[axis], bounds, size_at(first.inputs[0], axis))
        if both is None:
            return "the bounds depend on an unknown size or have steps"
        merged[axis] = both
    return merged


class _Pair(NodeRule):
    """Two Slices in a row."""

    def __init__(self, op_type: str, name: str) -> None:
        super().__init__(op_type, name)
        # By first Slice, for one run of the rules: a user that keeps it, or None if there is none.
        # Hundreds of Slices can read one; asking each of them about all the others is quadratic.
        self._keepers: dict[ir.Node, ir.Node | None] = {}

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Constant bounds, and no axis whose two bounds depend on an unknown size."""
        node = context.root
        inner = producer_of(node.inputs[0], "Slice")
        if inner is None or inner.outputs[0].is_graph_output():
            return no_match()
        merged = _merged(inner, node)
        if merged is None:
            return no_match()
        if isinstance(merged, str):
            return refuse(merged, node)
        if self._is_kept(inner):
            return refuse(_SHARED, node)
        as_attributes = opset_version(node, context.model) < 10
        return found(x=inner.inputs[0], merged=merged, as_attributes=as_attributes)

    def _is_kept(self, inner: ir.Node) -> bool:
        """True if the first Slice stays, whatever happens to the one that is looked at."""
        keeper = self._keepers.get(inner)
        if keeper is not None and not _keeps(inner, keeper):
            del self._keepers[inner]  # it has been rewritten since
        if inner not in self._keepers:
            users = inner.outputs[0].consumers()
            # Op types first: bounds are read only if nothing simpler decides.
            users = sorted(users, key=lambda user: user.op_type == "Slice")
            self._keepers[inner] = next((user for user in users if _keeps(inner, user)), None)
        return self._keepers[inner] is not None

    def rewrite(
        self,
        op: Any,
        root: ir.Value,
        x: ir.Value,
        merged: dict[int, Bounds],
        as_attributes: bool,
    ) -> Any:
        """One Slice over all the axes."""
        axes = sorted(merged)
        bounds = [merged[axis] for axis in axes]
        starts, ends = [item.start for item in bounds], [item.end for item in bounds]
        if as_attributes:
            return op.Slice(x, starts=starts, ends=ends, axes=axes)
        steps = [item.step for item in bounds]
        columns = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        if set(steps) == {1}:
            del columns["steps"]
        operands = [
            op.initializer(ir.tensor(np.array(column, np.int64)), name=f"{root.name}_{name}")
            for name, column in columns.items()
        ]
        return op.Slice(x, *operands)


def _keeps(inner: ir.Node, user: ir.Node) -> bool:
    """True if `user` reads the Slice `inner` and does not merge with it."""
    reads = user.graph is not None and any(value is inner.outputs[0] for value in user.inputs)
    return reads and not isinstance(_merged(inner, user), dict)


def _part_of_concat(node: ir.Node, version: int) -> ir.Value | None:
    concat = producer_of(node.inputs[0], "Concat")
    size = rank(node.inputs[0])
    if concat is None or not size:
        return None
    bounds = slice_bounds(node)
    axis = int_attribute(concat, "axis", 1) % size
    if bounds is None or list(bounds) != [axis] or bounds[axis].step != 1:
        return None
    sizes = [size_at(part, axis) for part in concat.inputs]
    start, end = bounds[axis].start, bounds[axis].end
    if all(isinstance(item, int) for item in sizes):
        whole = bounds[axis].resolved(sum(item for item in sizes if isinstance(item, int)))
        start, end = whole.start, whole.end
    offset = 0
    for part, item in zip(concat.inputs, sizes, strict=True):
        if not isinstance(item, int):
            return None
        if (start, end) == (offset, offset + item) and item > 0:
            return part
        offset += item
    return None

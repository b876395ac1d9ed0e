"""Chains of Reshape, Flatten, Squeeze and Unsqueeze become one of them, or none.

    R2(R1(x))                            -> x                    y has the shape of x
    Squeeze(Unsqueeze(x, a), a)          -> x                    and the other way round
    Unsqueeze(Unsqueeze(x, a), b)        -> Unsqueeze(x, a + b)  axes renumbered; Squeeze likewise
    R2(R1(x))                            -> Reshape(x, s)        s from the shapes of x and y
    Reshape(R1(x), s)                    -> Reshape(x, s)        s without a 0
    Squeeze(Reduce(x, a, keepdims=1), a) -> Reduce(x, a, keepdims=0), and Unsqueeze the other way

All four keep the order of the elements, so that only the last shape counts. An entry 0 of a target
copies the dimension of *its* input and -1 is what is left over: the merged target is therefore
written anew from the shapes, with 0 where x has the same symbol at the same place and -1 for at
most one more. A target that is computed at run time is kept if none of its parts can be a 0.

Refused: two or more dimensions that no constant target can say; a size that is 0. Subgraphs are
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
from onnxopt.graph.values import (
    constant,
    constant_ints,
    dims,
    int_attribute,
    opset_version,
    rank,
    same_shape,
)
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    ints_parameter,
    no_match,
    only_user,
    producer_of,
    refuse,
)

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
    *("ArgMax", "ArgMin"),
)
Dims = Sequence[int | str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeReshapes(RewritePass):
    """Merges chains of Reshape, Flatten, Squeeze and Unsqueeze into one node or none."""

    name: ClassVar[str] = "merge-reshapes"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type, and one for reductions before Squeeze and Unsqueeze."""
        chains = [_Chain.rule(op_type, f"{op_type.lower()}-chain") for op_type in RESHAPES]
        reductions = [
            _Reduction.rule(op_type, f"reduction-{op_type.lower()}")
            for op_type in ("Squeeze", "Unsqueeze")
        ]
        return [*reductions, *chains]


def reshape_target(source: Dims | None, wanted: Dims) -> tuple[int, ...] | None:
    """A constant target with which Reshape turns the shape `source` into `wanted`, or None."""
    target: list[int] = []
    for position, size in enumerate(wanted):
        if isinstance(size, int):
            if size == 0:
                return None
            target.append(size)
        elif size is not None and _size_at(source, position) == size:
            target.append(0)
        elif -1 in target:
            return None
        else:
            target.append(-1)
    return tuple(target)


def _size_at(shape: Dims | None, position: int) -> int | str | None:
    return None if shape is None or position >= len(shape) else shape[position]


class _Chain(NodeRule):
    """Two nodes that only change the shape."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Chooses the replacement; `rewrite` builds it."""
        node = context.root
        inner = producer_of(node.inputs[0], *RESHAPES)
        if inner is None or inner.inputs[0] is None or opset_version(node, context.model) < 5:
            return no_match()
        self._plan = _replacement(node, inner)
        if self._plan is None:
            return refuse("no constant target gives this shape", node)
        return MatchResult()

    def rewrite(self, op: Any, root: ir.Value) -> Any:
        """The input itself, or one node."""
        assert self._plan is not None
        op_type, x, target = self._plan
        if op_type == "":
            return x
        if isinstance(target, ir.Value):
            return op.Reshape(x, target)
        if op_type != "Reshape" and _axes_are_attributes(root):
            return op.op(op_type, x, axes=target)
        operand = op.initializer(ir.tensor(np.array(target, np.int64)), name=f"{root.name}_shape")
        return op.op(op_type, x, operand)

    _plan: tuple[str, ir.Value, tuple[int, ...] | ir.Value] | None = None


def _axes_are_attributes(root: ir.Value) -> bool:
    node = root.producer()
    return node is not None and "axes" in node.attributes


def _replacement(
    node: ir.Node, inner: ir.Node
) -> tuple[str, ir.Value, tuple[int, ...] | ir.Value] | None:
    """Op type ("" for none), input, and axes or target of what replaces the chain."""
    x, y = inner.inputs[0], node.outputs[0]
    assert x is not None
    pair = {node.op_type, inner.op_type}
    if pair <= {"Squeeze", "Unsqueeze"}:
        inner_axes, axes = ints_parameter(inner, "axes", 1), ints_parameter(node, "axes", 1)
        if axes and inner_axes:
            if len(pair) == 2 and set(axes) == set(inner_axes):
                return "", x, ()
            merged = _merged_axes(node.op_type, x, inner_axes, axes) if len(pair) == 1 else None
            if merged is not None:
                return node.op_type, x, merged
    if same_shape(x, y):
        return "", x, ()
    shape = dims(y)
    target = None if shape is None else reshape_target(dims(x), shape)
    if target is not None:
        return "Reshape", x, target
    if node.op_type == "Reshape" and node.inputs[1] is not None and _copies_nothing(node):
        return "Reshape", x, node.inputs[1]
    return None


def _merged_axes(
    op_type: str, x: ir.Value, inner: Sequence[int], outer: Sequence[int]
) -> tuple[int, ...] | None:
    """Axes of one Squeeze or Unsqueeze that does the work of two."""
    size = rank(x)
    if size is None and min(*inner, *outer) < 0:
        return None
    known = size if size is not None else max(*inner, *outer) + len(inner) + len(outer) + 1
    grow = 1 if op_type == "Unsqueeze" else -1
    middle, final = known + grow * len(inner), known + grow * (len(inner) + len(outer))
    if op_type == "Squeeze":
        gone = {axis % known for axis in inner}
        left = [axis for axis in range(known) if axis not in gone]
        return tuple(sorted(gone | {left[axis % middle] for axis in outer}))
    added = {axis % final for axis in outer}
    old = [axis for axis in range(final) if axis not in added]
    return tuple(sorted(added | {old[axis % middle] for axis in inner}))


def _copies_nothing(node: ir.Node) -> bool:
    """True if no entry of the target of a Reshape can be a 0 that copies a dimension."""
    target = node.inputs[1]
    if int_attribute(node, "allowzero", 0) == 1:
        return False
    known = constant_ints(target)
    if known is not None:
        return 0 not in known
    # Sizes that are computed are those of tensors; only the constant parts can mean "copy".
    parts = producer_of(target, "Concat")
    if parts is None:
        return producer_of(target, "Shape") is not None
    for part in parts.inputs:
        array = constant(part)
        if array is not None and (array == 0).any():
            return False
    return True


class _Reduction(NodeRule):
    """A Squeeze or Unsqueeze of exactly the axes that were reduced."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """The axes, and that nobody else needs the reduction as it is."""
        node = context.root
        reduction = producer_of(node.inputs[0], *_REDUCTIONS)
        if reduction is None or not only_user(reduction.outputs[0]):
            return no_match()
        keeps = int_attribute(reduction, "keepdims", 1) == 1
        axes, reduced = ints_parameter(node, "axes", 1), _reduced_axes(reduction)
        size = rank(reduction.inputs[0])
        if keeps != (self.op_type == "Squeeze") or not axes or not reduced:
            return no_match()
        if size is None:
            same = set(axes) == set(reduced)
        else:
            same = {axis % size for axis in axes} == {axis % size for axis in reduced}
        return MatchResult() if same else no_match()

    def rewrite(self, op: Any, root: ir.Value) -> Any:
        """The reduction with the other `keepdims`."""
        node = root.producer()
        reduction = None if node is None or node.inputs[0] is None else node.inputs[0].producer()
        assert reduction is not None
        attributes = {**reduction.attributes, "keepdims": int(self.op_type == "Unsqueeze")}
        return op.op(reduction.op_type, *reduction.inputs, **attributes)


def _reduced_axes(reduction: ir.Node) -> tuple[int, ...] | None:
    if reduction.op_type.startswith("Arg"):
        return (int_attribute(reduction, "axis", 0),)
    return ints_parameter(reduction, "axes", 1)

"""Chains of Reshape, Flatten, Squeeze and Unsqueeze become one of them, or none.

    R2(R1(x))                            -> x                    y has the shape of x
    Squeeze(Unsqueeze(x, a), a)          -> x                    and the other way round
    Unsqueeze(Unsqueeze(x, a), b)        -> Unsqueeze(x, a + b)  axes renumbered; Squeeze likewise
    Squeeze(Unsqueeze(x, a), b)          -> Unsqueeze(x, c)      one of both is enough; or Squeeze
    R2(R1(x))                            -> Reshape(x, s)        s from the shapes of x and y
    Reshape(R1(x), s)                    -> Reshape(x, s)        s copies nothing that R1 changes
    Squeeze(Reduce(x, a, keepdims=1), a) -> Reduce(x, a, keepdims=0), and Unsqueeze the other way

All four keep the order of the elements, so that only the last shape counts. An entry 0 of a target
copies the dimension of *its* input and -1 is what is left over: the merged target is therefore
written anew from the shapes, with 0 where x has the same symbol at the same place and -1 for at
most one more. A symbol may stand for 0, and runtimes cannot infer a -1 beside a dimension of 0:
both together are written only if what is copied is at least 1, or if the chain says the same -1.
Otherwise the target of the last Reshape is kept, constant or computed, if each of its entries
provably is no 0 or copies a dimension that x and R1(x) share.

Refused: dimensions that no constant target can say; a size that is 0. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import (
    dims,
    int_attribute,
    opset_version,
    rank,
    same_shape,
)
from onnxopt.passes.cleanup.reshape_targets import (
    means_the_same,
    reshape_target,
    symbols_beside_minus_one,
)
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
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
# Op type ("" for none), input, and axes or target of what replaces a chain.
_Plan = tuple[str, ir.Value, tuple[int, ...] | ir.Value]


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


class _Chain(NodeRule):
    """Two nodes that only change the shape."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Chooses the replacement; `rewrite` builds it."""
        node = context.root
        inner = producer_of(node.inputs[0], *RESHAPES)
        if inner is None or inner.inputs[0] is None or opset_version(node, context.model) < 5:
            return no_match()
        plan = _replacement(node, inner)
        if plan is None:
            return refuse("no constant target gives this shape", node)
        return found(plan=plan)

    def rewrite(self, op: Any, root: ir.Value, plan: _Plan) -> Any:
        """The input itself, or one node."""
        op_type, x, target = plan
        if op_type == "":
            return x
        if isinstance(target, ir.Value):
            return op.Reshape(x, target)
        if op_type != "Reshape" and _axes_are_attributes(root):
            return op.op(op_type, x, axes=target)
        operand = op.initializer(ir.tensor(np.array(target, np.int64)), name=f"{root.name}_shape")
        return op.op(op_type, x, operand)


def _axes_are_attributes(root: ir.Value) -> bool:
    node = root.producer()
    return node is not None and "axes" in node.attributes


def _replacement(node: ir.Node, inner: ir.Node) -> _Plan | None:
    x, y = inner.inputs[0], node.outputs[0]
    assert x is not None
    pair = {node.op_type, inner.op_type}
    if pair <= {"Squeeze", "Unsqueeze"}:
        inner_axes, axes = ints_parameter(inner, "axes", 1), ints_parameter(node, "axes", 1)
        if axes and inner_axes:
            if len(pair) == 2 and set(axes) == set(inner_axes):
                return "", x, ()
            steps = (inner.op_type, inner_axes), (node.op_type, axes)
            merged = _merged_steps(steps, rank(x))
            if merged is not None:
                return merged[0], x, merged[1]
    if same_shape(x, y):
        return "", x, ()
    shape = dims(y)
    known = symbols_beside_minus_one(inner) | symbols_beside_minus_one(node)
    target = None if shape is None else reshape_target(dims(x), shape, known)
    if target is not None:
        return "Reshape", x, target
    if node.op_type == "Reshape" and node.inputs[1] is not None and means_the_same(node, x):
        return "Reshape", x, node.inputs[1]
    return None


def _merged_steps(
    steps: Sequence[tuple[str, tuple[int, ...]]], size: int | None
) -> tuple[str, tuple[int, ...]] | None:
    """Op type ("" for none) and axes of one node for Squeezes and Unsqueezes in a row.

    Args:
        steps: Op types and axes.
        size: Rank of the input of the first; None if unknown.
    """
    every = [axis for _, axes in steps for axis in axes]
    if size is None:
        if min(every) < 0:
            return None
        size = max(every) + len(every) + 1  # counted from the front: axes behind do not matter
    left: list[int | None] = list(range(size))  # axes of the input; None is one of size 1 more
    for op_type, axes in steps:
        after = len(left) + (len(axes) if op_type == "Unsqueeze" else 0)
        chosen = {axis % after for axis in axes}
        if op_type == "Squeeze":
            left = [axis for place, axis in enumerate(left) if place not in chosen]
        else:
            old = iter(left)
            left = [None if place in chosen else next(old) for place in range(after)]
    # By number of axes in front that are neither: ones between the same two axes are the same.
    kept = {axis for axis in left if axis is not None}
    removed = _places(axis for axis in range(size) if axis not in kept)
    added = _places(place for place, axis in enumerate(left) if axis is None)
    for axis, front in list(removed.items()):
        same = next((place for place in added if added[place] == front), None)
        if same is not None:
            del removed[axis], added[same]
    if removed and added:
        return None
    return ("Squeeze" if removed else "Unsqueeze" if added else ""), (*removed, *added)


def _places(axes: Iterable[int]) -> dict[int, int]:
    """For each of some ascending axes, how many axes in front of it are none of them."""
    return {axis: axis - count for count, axis in enumerate(axes)}


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

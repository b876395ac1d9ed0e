"""Transposes that follow each other, and those that only move axes of size 1.

    Transpose(Transpose(x, p), q)  -> Transpose(x, p[q])   or x, if p[q] is the identity
    Reshape(Transpose(Reshape(x))) -> Transpose(x, q)      the first Reshape joins axes of x, the
                                                           second takes them apart again
    Transpose(Unsqueeze(x, a), p)  -> Unsqueeze(Transpose(x, q), b)      b are the places of a in p
    Transpose(x, p)                -> Reshape(x, s)        p only moves axes of size 1, and a
                                                           Reshape, Flatten, Squeeze or Unsqueeze
                                                           before or after it can take it in

Transpose(x, p) has axis p[i] of x at place i, so that two of them compose to axis p[q[i]]. Moving
axes of size 1 does not change the order of the elements in memory. [b, h, s, d] -> [b*h, s, d] ->
[b*h, d, s] -> [b, h, d, s] is what some exporters write for a transposed key; all axes but one must
be those of x one to one, so that the joined ones are known without computing with symbols.

The axes of an Unsqueeze come last, so that those of a Transpose meet what is before it.

Refused: a size-1 Transpose whose result no constant target can say (an unknown dimension that moves
beside one that can be 0, as in MergeReshapes). A Transpose of size-1 axes between other operators
stays a Transpose, since it may cancel against another one later; a Transpose of a constant is left
to constant folding. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import dims, ints_attribute, opset_version, rank
from onnxopt.passes.cleanup.reshape_targets import Dims, reshape_target, symbols_beside_minus_one
from onnxopt.passes.cleanup.reshapes import RESHAPES
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    ints_parameter,
    no_match,
    only_user,
    producer_of,
    refuse,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeTransposes(RewritePass):
    """Merges Transposes that follow each other, and those of size-1 axes into Reshapes."""

    name: ClassVar[str] = "merge-transposes"

    def rules(self) -> Sequence[RewriteRule]:
        """Pairs first: a pair may cancel altogether."""
        return [
            _Pair.rule("Transpose", "transpose-pair"),
            _Lifted.rule("Transpose", "transpose-of-unsqueezed"),
            _SizeOne.rule("Transpose", "transpose-to-reshape"),
            _Joined.rule("Reshape", "transpose-of-joined-axes"),
        ]


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; reversed axes if it has none; None if nobody knows it."""
    perm, size = ints_attribute(node, "perm"), rank(node.inputs[0])
    if perm is None:
        return None if size is None else tuple(reversed(range(size)))
    # No runtime takes one that repeats an axis, or is of another rank.
    valid = sorted(perm) == list(range(len(perm))) and size in (None, len(perm))
    return perm if valid else None


class _Pair(NodeRule):
    """Two Transposes in a row."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Both permutations are known."""
        composed = _composed(context.root)
        return no_match() if composed is None else found(x=composed[0], perm=composed[1])

    def rewrite(self, op: Any, root: ir.Value, x: ir.Value, perm: tuple[int, ...]) -> Any:
        """One Transpose, or none."""
        return x if perm == tuple(range(len(perm))) else op.Transpose(x, perm=perm)


def _composed(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | None:
    inner = producer_of(node.inputs[0], "Transpose")
    if inner is None or inner.inputs[0] is None:
        return None
    first, second = permutation(inner), permutation(node)
    if first is None or second is None or len(first) != len(second):
        return None
    return inner.inputs[0], tuple(first[axis] for axis in second)


class _Lifted(NodeRule):
    """A Transpose behind an Unsqueeze, which is not needed if it moves the new axes only."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Nobody else reads the value with the new axes."""
        node = context.root
        lift, perm = producer_of(node.inputs[0], "Unsqueeze"), permutation(node)
        axes = None if lift is None else ints_parameter(lift, "axes", 1)
        if lift is None or not axes or perm is None or not only_user(lift.outputs[0]):
            return no_match()
        lifted = {axis % len(perm) for axis in axes}
        kept = [axis for axis in range(len(perm)) if axis not in lifted]
        inner = tuple(kept.index(axis) for axis in perm if axis not in lifted)
        outer = [place for place, axis in enumerate(perm) if axis in lifted]
        return found(x=lift.inputs[0], inner=inner, outer=outer, by_input=len(lift.inputs) > 1)

    def rewrite(
        self, op: Any, root: ir.Value, x: ir.Value, inner: tuple[int, ...], outer: list[int],
        by_input: bool,
    ) -> Any:  # fmt: skip
        """The new axes last; without a Transpose if the others keep their order."""
        if inner != tuple(range(len(inner))):
            x = op.Transpose(x, perm=inner)
        if not by_input:
            return op.Unsqueeze(x, axes=outer)
        axes = op.initializer(ir.tensor(np.array(outer, np.int64)), name=f"{root.name}_axes")
        return op.Unsqueeze(x, axes)


class _SizeOne(NodeRule):
    """A Transpose that keeps the order of the elements, next to a node that keeps it too."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Only axes of size 1 move, and a neighbour can merge with a Reshape."""
        node = context.root
        x, shape, perm = node.inputs[0], dims(node.inputs[0]), permutation(node)
        if x is None or shape is None or perm is None or opset_version(node, context.model) < 5:
            return no_match()
        large = [axis for axis in perm if shape[axis] != 1]
        if large != sorted(large) or perm == tuple(range(len(perm))):
            return no_match()
        users = [user for user, _ in root.uses()]
        before = producer_of(x, *RESHAPES)
        merges = before is not None or (
            bool(users)
            and not root.is_graph_output()
            and all(not user.domain and user.op_type in RESHAPES for user in users)
        )
        if not merges:
            return no_match()
        known = set() if before is None else symbols_beside_minus_one(before)
        target = reshape_target(shape, [shape[axis] for axis in perm], known)
        if target is None:
            return refuse("no constant target gives the shape of this Transpose", node)
        return found(x=x, target=target)

    def rewrite(self, op: Any, root: ir.Value, x: ir.Value, target: tuple[int, ...]) -> Any:
        """A Reshape, which copies nothing and merges with its neighbours."""
        tensor = ir.tensor(np.array(target, np.int64))
        return op.Reshape(x, op.initializer(tensor, name=f"{root.name}_shape"))


class _Joined(NodeRule):
    """A Transpose between a Reshape that joins axes and one that takes them apart."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Every joined axis comes back as it was."""
        node = context.root
        transpose = producer_of(node.inputs[0], "Transpose")
        joining = None if transpose is None else producer_of(transpose.inputs[0], "Reshape")
        if transpose is None or joining is None or joining.inputs[0] is None:
            return no_match()
        source, perm = joining.inputs[0], permutation(transpose)
        shape, joined, wanted = dims(source), dims(joining.outputs[0]), dims(root)
        if shape is None or joined is None or wanted is None or perm is None:
            return no_match()
        groups = _groups(shape, joined)
        if groups is None:
            return no_match()
        axes = tuple(axis for place in perm for axis in groups[place])
        if None in wanted or tuple(shape[axis] for axis in axes) != wanted:
            return no_match()
        return found(x=source, perm=axes)

    def rewrite(self, op: Any, root: ir.Value, x: ir.Value, perm: tuple[int, ...]) -> Any:
        """One Transpose of all the axes."""
        return op.Transpose(x, perm=perm)


def _groups(shape: Dims, joined: Dims) -> list[list[int]] | None:
    """For each axis of `joined` the axes of `shape` that it is made of; None if that is unclear."""
    extra = len(shape) - len(joined)
    if extra < 0:
        return None
    front = 0
    while front < len(joined) and _equal(shape[front], joined[front]):
        front += 1
    back = 0
    while back < len(joined) - front - 1 and _equal(shape[-1 - back], joined[-1 - back]):
        back += 1
    if front == len(joined):
        return [[axis] for axis in range(front)] if extra == 0 else None
    if front + back != len(joined) - 1:
        return None
    middle = list(range(front, len(shape) - back))
    return [*([a] for a in range(front)), middle, *([a] for a in range(len(shape))[-back:] if back)]


def _equal(one: int | str | None, other: int | str | None) -> bool:
    return one is not None and one == other

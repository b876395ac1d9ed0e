"""Chains of Relu, Clip, Min and Max with numbers, merged into one Relu or Clip.

    Relu(Clip(x, a, b)), Clip(Relu(x), a, b)   -> Clip(x, max(0, a), max(0, b))
    Clip(Clip(x, a, b), c, d)                  -> Clip(x, clip(a, c, d), clip(b, c, d))
    Min(Max(x, a), b), Max(Min(x, b), a)       -> Clip(x, a, b)
    Relu(Relu(x)), Max(x, 0), Clip(x, 0, inf)  -> Relu(x)

Every one of these is a clamp y = min(max(x, a), b), and two clamps make one: the inner limits,
clamped by the outer ones. Relu and Clip are what runtimes fuse into the Conv in front of them; a
single Min or Max is left alone unless it is a Relu.

Limits are attributes before opset 11 and inputs from then on; Clip of integers exists from opset 12
on, Relu of integers from 14 on. NaN stays NaN in Relu, Min, Max and Clip of ONNX Runtime alike.
A missing limit of a Clip counts as none. By the standard it is the largest finite number of the
type, so that Relu(Clip(inf, 0)) was 3.4e38 and is infinite now.

Refused: an inner value with other users; limits that are computed; a lower limit above the upper
one, for which opsets disagree; Min and Max of more than two operands or with a constant that
broadcasts. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    refuse,
)

_CLAMPS = ("Relu", "Clip", "Min", "Max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeClips(RewritePass):
    """Merges chains of Relu, Clip, Min and Max with numbers into one Relu or Clip."""

    name: ClassVar[str] = "merge-clips"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type that can end a chain."""
        return [_Merge.rule(op_type, f"merge-{op_type.lower()}") for op_type in _CLAMPS]


@dataclasses.dataclass(frozen=True)
class Clamp:
    """A node y = min(max(x, low), high)."""

    x: ir.Value
    low: float  # an int where x holds integers: int64 does not fit into a float
    high: float

    def after(self, inner: Clamp) -> Clamp:
        """This clamp on the output of `inner`, as one clamp of the input of `inner`."""
        low = min(max(inner.low, self.low), self.high)
        high = min(max(inner.high, self.low), self.high)
        return Clamp(inner.x, low, high)


def clamp_of(node: ir.Node | None) -> Clamp | None:
    """The node as a clamp; None if it is none or its limits are not known."""
    if node is None or node.domain or node.op_type not in _CLAMPS:
        return None
    x = node.inputs[0]
    if node.op_type == "Relu":
        return None if x is None else Clamp(x, 0.0, np.inf)
    if node.op_type == "Clip":
        low = _limit(node, 1, "min", -np.inf)
        high = _limit(node, 2, "max", np.inf)
        return None if x is None or low is None or high is None else Clamp(x, low, high)
    if len(node.inputs) != 2:
        return None
    for x, number in (node.inputs, node.inputs[::-1]):
        array = constant(number)
        if x is None or array is None or array.size != 1 or constant(x) is not None:
            continue
        if array.ndim and (rank(x) or 0) < array.ndim:
            return None
        limit = array.reshape(-1)[0].item()
        if limit != limit:  # NaN
            return None
        return Clamp(x, limit, np.inf) if node.op_type == "Max" else Clamp(x, -np.inf, limit)
    return None


def _limit(node: ir.Node, index: int, name: str, default: float) -> float | None:
    attribute = node.attributes.get(name)
    if attribute is not None:
        return attribute.as_float()
    if not has_input(node, index):
        return default
    array = constant(node.inputs[index])
    if array is None or array.size != 1:
        return None
    limit: float = array.reshape(-1)[0].item()
    return None if limit != limit else limit  # NaN limits nothing in some runtimes


class _Merge(NodeRule):
    """A clamp on a clamp, or a single one that is a Relu."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        outer = clamp_of(node)
        if outer is None:
            return no_match()
        version = opset_version(node, context.model)
        inner_node = outer.x.producer()
        inner = clamp_of(inner_node)
        merged = outer if inner is None else outer.after(inner)
        dtype = merged.x.dtype
        if dtype is None:
            return no_match()
        if inner is None:
            if node.op_type == "Relu" or not _is_relu(merged):
                return no_match()
        elif not only_user(outer.x):
            return refuse("the value between has other users", node)
        if outer.low > outer.high or (inner is not None and inner.low > inner.high):
            return refuse("the lower limit exceeds the upper one", node)
        if dtype.is_integer() and version < 12:
            return no_match()
        if version < 11 and dtype not in (
            ir.DataType.FLOAT,
            ir.DataType.FLOAT16,
            ir.DataType.DOUBLE,
        ):
            return no_match()
        return found(parts=(merged, version))

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[Clamp, int]) -> ir.Value:
        """One Relu or Clip."""
        clamp, version = parts
        dtype = clamp.x.dtype
        assert dtype is not None
        limits = {"min": clamp.low, "max": clamp.high}
        result: ir.Value
        if _is_relu(clamp):
            result = op.Relu(clamp.x)
        elif version < 11:
            result = op.Clip(clamp.x, **{k: v for k, v in limits.items() if np.isfinite(v)})
        else:
            inputs: list[ir.Value | None] = [clamp.x]
            for name, limit in limits.items():
                if np.isinf(limit):
                    inputs.append(None)
                    continue
                tensor = ir.Tensor(np.asarray(limit).astype(dtype.numpy()), dtype=dtype)
                inputs.append(op.initializer(tensor, name=f"{root.name}_{name}"))
            while inputs[-1] is None:
                inputs.pop()
            result = op.Clip(*inputs)
        return result


def _is_relu(clamp: Clamp) -> bool:
    dtype = clamp.x.dtype
    if clamp.low != 0 or dtype is None:
        return False
    if dtype.is_integer():
        return False  # ONNX Runtime has no kernel of Relu for most integer types, but one of Clip
    return clamp.high >= float(dtype.max)

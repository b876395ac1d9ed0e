"""Pad folded into the padding of the convolution or pooling behind it.

    Conv(Pad(x, p, 0), pads=q)                -> Conv(x, pads=p + q)
    ConvInteger, QLinearConv (Pad(x, p, z))   -> the same with pads=p + q     z: the zero point of x
    AveragePool(Pad(x, p, 0), pads=q)         -> AveragePool(x, pads=p + q, count_include_pad=1)
    MaxPool(Pad(x, p, -inf), pads=q)          -> MaxPool(x, pads=p + q)
    MaxPool(Pad(x, p, 0), pads=q)             -> MaxPool(x, pads=p + q)       where x >= 0

The pad value must be the one that the node itself puts around its input: zero for Conv, the zero
point for integer convolutions, minus infinity for MaxPool. An AveragePool that excludes padding
counts the zeros of the Pad, so it takes them over only if it has no padding of its own; the window
then divides by its full size either way. Zeros around a MaxPool change nothing if x is at least
zero (the output of Relu, Sigmoid, Softmax, Abs, Clip from 0) and every window touches x. Runtimes
start a MaxPool of floats from the lowest finite number (-3.4e38), which only a window without any
larger element shows: one that touches nothing but padding, or an x that is -inf all over a window.
The first needs dilation and is refused; the second may give -3.4e38 where the Pad gave -inf.

A Pad with several users is folded into each of them that can take it.

Refused: modes other than constant; negative pads (they crop); pads of the batch or channel axis;
pads or values that are not constants; auto_pad=SAME_*, which computes pads from the unpadded size;
pools whose pads would reach the size of the window (runtimes reject them), that round their output
up (ceil_mode) or return indices. ConvTranspose crops by its pads and is no candidate. Subgraphs are
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
    int_attribute,
    ints_attribute,
    opset_version,
    rank,
)
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    producer_of,
    refuse,
)

# Where each node has the zero point of its first input; None if it has none.
_ZERO_POINT = {"Conv": None, "ConvInteger": 2, "QLinearConv": 2}

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Softplus", "Exp", "Sqrt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusePads(RewritePass):
    """Folds Pad into the pads of Conv, ConvInteger, QLinearConv, AveragePool and MaxPool."""

    name: ClassVar[str] = "fuse-pads"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type that pads its input itself."""
        return [
            *(_PadBeforeConv.rule(op, f"pad-{op.lower()}") for op in _ZERO_POINT),
            _PadBeforePool.rule("AveragePool", "pad-average-pool"),
            _PadBeforePool.rule("MaxPool", "pad-max-pool"),
        ]


@dataclasses.dataclass(frozen=True)
class _Padding:
    """What a Pad node puts around the spatial axes of its input."""

    x: ir.Value
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float


def _padding(pad: ir.Node, version: int) -> _Padding | str:
    """Reads a Pad in the spelling of any opset: attributes before 11, `axes` from 18 on."""
    x = pad.inputs[0]
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return f"the Pad has mode {mode.as_string()}"
    if version < 11:
        pads = ints_attribute(pad, "pads" if version >= 2 else "paddings")
    else:
        pads = constant_ints(pad.inputs[1])
    if pads is None or x is None:
        return "the pads are not constants"
    value = _value(pad, version)
    if value is None:
        return "the value of the Pad is not a constant"
    size = rank(x)
    axes: Sequence[int] = range(len(pads) // 2)
    if has_input(pad, 3):
        known = constant_ints(pad.inputs[3])
        if known is None or (size is None and min(known, default=0) < 0):
            return "the axes of the Pad are not known"
        axes = known
        if size is None:
            return "the rank of the padded value is not known"
    else:
        size = len(axes)
    begins, ends = [0] * size, [0] * size
    for index, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[index], pads[index + len(axes)]
    if min(begins + ends, default=0) < 0:
        return "the Pad crops: it has negative pads"
    if any(begins[:2]) or any(ends[:2]):
        return "the Pad is not only along spatial axes"
    return _Padding(x, tuple(begins[2:]), tuple(ends[2:]), value)


def _value(pad: ir.Node, version: int) -> float | None:
    if version < 11:
        attribute = pad.attributes.get("value")
        return 0.0 if attribute is None else attribute.as_float()
    if not has_input(pad, 2):
        return 0.0
    array = constant(pad.inputs[2])
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


class _PadBefore(NodeRule):
    """A node with attribute `pads` behind a Pad."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        pad = producer_of(node.inputs[0], "Pad")
        if pad is None:
            return no_match()
        padding = _padding(pad, opset_version(pad, context.model))
        if isinstance(padding, str):
            return refuse(padding, node)
        auto_pad = node.attributes.get("auto_pad")
        if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
            return refuse(f"the {node.op_type} has auto_pad={auto_pad.as_string()}", node)
        own = ints_attribute(node, "pads") or (0,) * (2 * len(padding.begins))
        if len(own) != 2 * len(padding.begins):
            return no_match()
        both = [a + b for a, b in zip(padding.begins + padding.ends, own, strict=True)]
        reason = self.misfit(node, padding, any(own), both, opset_version(node, context.model))
        if reason:
            return refuse(reason, node)
        return found(padding=padding, both=both)

    def misfit(
        self, node: ir.Node, padding: _Padding, own: bool, both: list[int], version: int
    ) -> str:
        """Why padding by the node itself gives something else, or ""."""
        raise NotImplementedError

    def rewrite(self, op: Any, root: ir.Value, padding: _Padding, both: list[int]) -> ir.Value:
        """The node on the unpadded value."""
        node = root.producer()
        assert node is not None
        attributes = {k: v for k, v in node.attributes.items() if k not in ("pads", "auto_pad")}
        attributes["pads"] = ir.AttrInt64s("pads", both)
        if node.op_type == "AveragePool" and any(padding.begins + padding.ends):
            attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        y: ir.Value = op.op(node.op_type, padding.x, *node.inputs[1:], **attributes)
        return y


class _PadBeforeConv(_PadBefore):
    """Conv and its integer forms, which pad with zero or the zero point."""

    def misfit(
        self, node: ir.Node, padding: _Padding, own: bool, both: list[int], version: int
    ) -> str:
        index = _ZERO_POINT[node.op_type]
        zero: float | None = 0.0
        if index is not None and has_input(node, index):
            array = constant(node.inputs[index])
            zero = None if array is None or array.size != 1 else float(array.reshape(-1)[0])
        if padding.value == zero:
            return ""
        return f"the Pad fills with {padding.value:g} and the {node.op_type} with its zero"


class _PadBeforePool(_PadBefore):
    """AveragePool and MaxPool."""

    def misfit(
        self, node: ir.Node, padding: _Padding, own: bool, both: list[int], version: int
    ) -> str:
        kernel = ints_attribute(node, "kernel_shape") or ()
        if int_attribute(node, "ceil_mode", 0):
            return "the pooling rounds its size up"
        if any(pad >= size for pad, size in zip(both, kernel + kernel, strict=True)):
            return "the pads would reach the size of the window"
        if node.op_type == "AveragePool":
            if padding.value != 0:
                return f"the Pad fills with {padding.value:g}"
            if version < 7:
                return "AveragePool counts no padding before opset 7"
            if own and not int_attribute(node, "count_include_pad", 0):
                return "the AveragePool does not count its own padding"
            return ""
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return "the MaxPool returns indices into the padded value"
        dilated = any(step != 1 for step in ints_attribute(node, "dilations") or ())
        if padding.value == _lowest(padding.x.dtype):
            finite = padding.value != -np.inf
            return "" if finite or not dilated else "a window of the MaxPool can miss the input"
        if padding.value == 0 and not dilated and _never_negative(padding.x):
            return ""
        return f"the Pad fills with {padding.value:g}, which can exceed what the MaxPool reads"


def _lowest(dtype: ir.DataType | None) -> float | None:
    if dtype is None:
        return None
    return float(np.iinfo(dtype.numpy()).min) if dtype.is_integer() else -np.inf


def _never_negative(value: ir.Value) -> bool:
    """True if the value is provably at least zero, at every element."""
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Clip":
        attribute = node.attributes.get("min")
        if attribute is not None:
            return attribute.as_float() >= 0
        low = constant(node.inputs[1]) if has_input(node, 1) else None
        return low is not None and bool(np.all(low >= 0))
    return node.op_type in _NEVER_NEGATIVE

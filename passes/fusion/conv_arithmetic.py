"""Mul, Div, Add and Sub of constants folded into the linear node before or after them.

    Linear(x, W, b) * s,  / s       -> Linear(x, W * s, b * s)
    Linear(x, W, b) + t,  - t       -> Linear(x, W, b + t)
    t - Linear(x, W, b)             -> Linear(x, -W, t - b)
    Linear(x * s, W, b),  x / s     -> Linear(x, W * s, b)
    Conv(x + t, W, b),    x - t     -> Conv(x, W, b + W t)         only without padding

Linear is Conv, ConvTranspose (any group), Gemm or MatMul (with or without the Add of a constant)
with a constant weight; s and t are numbers or hold one number per channel. This is how tf2onnx
spells BatchNormalization, paddle2onnx the bias of a Conv, and everybody the scaling of pixels,
Conv((x - 127.5) / 128). MatMul + t is left to `FuseMatMulAdd`.

Behind the node the constant must not enlarge the output: one number per output channel, along the
channel axis. In front of MatMul and Gemm only single numbers are folded: one number per feature is
the scale of a LayerNormalization that fusions, here and in ONNX Runtime, look for.

In front of a node it must provably leave the shape of x as it is: a constant with as many axes as
the node needs may give x some of them, and one per channel may repeat a single channel.

Refused: an output with other users; a Div by zero; a constant that varies along another axis; in
front of a node one that may enlarge x, and the last step of an activation (x * Sigmoid(x) * s,
Clip(x + 3) / 6), which belongs to that activation; a shift in front of a Conv of more than 256 (1
for 16-bit types), where W x + W t loses the digits that W (x + t) keeps; what `linear` refuses.
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import (
    Float64,
    Linear,
    after,
    before,
    input_channels,
    linear_producer,
    read_linear,
    shared_weight,
    unpadded,
)

_ARITHMETIC = ("Mul", "Div", "Add", "Sub")

# Where a scalar factor is the last step of an activation: x * sigmoid(x) * s, clip(x + 3) / 6.
_ACTIVATIONS = ("Mul", "Clip", "Min", "Max")

# How large a shift in front of a Conv may be before the sum with the weights cancels.
_LARGEST_SHIFT = {ir.DataType.FLOAT: 256.0, ir.DataType.DOUBLE: 2.0**30}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseConvArithmetic(RewritePass):
    """Folds constant Mul, Div, Add and Sub into the Conv, Gemm or MatMul before or after them."""

    name: ClassVar[str] = "fuse-conv-arithmetic"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per arithmetic operation behind, one per linear operation in front."""
        return [
            *(_AfterLinear.rule(op, f"{op.lower()}-after-linear") for op in _ARITHMETIC),
            *(
                _BeforeLinear.rule(op, f"arithmetic-before-{op.lower()}")
                for op in ("Conv", "ConvTranspose", "Gemm", "MatMul")
            ),
        ]


@dataclasses.dataclass(frozen=True)
class _Operands:
    """One operand that is computed and one that is constant."""

    data: ir.Value
    number: ir.Value
    reversed: bool  # the constant comes first


def _operands(node: ir.Node) -> _Operands | None:
    first, second = node.inputs[:2]
    if first is None or second is None or "axis" in node.attributes:
        return None  # before opset 7 `axis` says how the second operand broadcasts
    if constant(second) is not None and constant(first) is None:
        return _Operands(first, second, False)
    if constant(first) is not None and constant(second) is None:
        return _Operands(second, first, True)
    return None


def _as_affine(
    node: ir.Node, number: Float64, reverse: bool
) -> tuple[Float64 | None, Float64 | None] | None:
    """The (scale, shift) that the node applies to its computed operand."""
    if not np.all(np.isfinite(number)):
        return None
    if node.op_type == "Mul":
        return number, None
    if node.op_type == "Add":
        return None, number
    if node.op_type == "Sub":
        return (np.full((), -1.0), number) if reverse else (None, -number)
    return None if reverse or np.any(number == 0) else (1.0 / number, None)


class _AfterLinear(NodeRule):
    """`Linear(x) * s`, `/ s`, `+ t`, `- t` and `t - Linear(x)`."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        operands = _operands(node)
        if operands is None:
            return no_match()
        linear = linear_producer(operands.data)
        if linear is None:
            return no_match()
        if isinstance(linear, str):
            return refuse(f"node before: {linear}", node)
        if node.op_type == "Add" and linear.node.op_type == "MatMul" and linear.add is None:
            return no_match()
        array = constant(operands.number)
        assert array is not None
        number = linear.per_channel(array)
        if number is None or (opset_version(node, context.model) < 7 and number.size > 1):
            return refuse("the constant is not one number per output channel", node)
        affine = _as_affine(node, number, operands.reversed)
        if affine is None:
            return refuse("it divides by zero or by the output, or is not finite", node)
        if not only_user(linear.output):
            # A single number on one of several users is a step of an activation, as x / sqrt(2).
            shared = "the output of the node before has other users"
            return refuse(shared if number.size > 1 else "", node)
        reason = "" if affine[0] is None else shared_weight(linear, node)
        if reason:
            return refuse(reason, node)
        return found(parts=(linear, *affine))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Linear, Float64 | None, Float64 | None]
    ) -> ir.Value | MatchResult:
        """The linear node with new constants."""
        linear, scale, shift = parts
        y = after(op, linear, scale, shift)
        return refuse(y, linear.node) if isinstance(y, str) else y


class _BeforeLinear(NodeRule):
    """`Linear(x * s)`, `Linear(x / s)` and, without padding, `Conv(x + t)`, `Conv(x - t)`."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        step = producer_of(node.inputs[0], *_ARITHMETIC)
        operands = None if step is None else _operands(step)
        if step is None or operands is None or not only_user(step.outputs[0]):
            return no_match()
        if producer_of(operands.data, *_ACTIVATIONS) is not None:
            return no_match()
        linear = read_linear(node)
        if linear is None or isinstance(linear, str):
            return no_match()
        array = constant(operands.number)
        assert array is not None
        number = _per_input_channel(linear, array)
        affine = None if number is None else _as_affine(step, number, operands.reversed)
        if affine is None:
            return no_match()
        if not _keeps_shape(linear, operands.data, array):
            return refuse("the constant before the node may enlarge what it is combined with", node)
        scale, shift = affine
        if shift is not None:
            reason = _shift_refused(linear, shift)
            if reason is None:
                return no_match()
            if reason:
                return refuse(reason, node)
        reason = "" if scale is None else shared_weight(linear, node)
        if reason:
            return refuse(reason, node)
        return found(parts=(linear, operands.data, scale, shift))

    def rewrite(
        self,
        op: Any,
        root: ir.Value,
        parts: tuple[Linear, ir.Value, Float64 | None, Float64 | None],
    ) -> ir.Value | MatchResult:
        """The linear node with new constants, on what was scaled or shifted before."""
        linear, x, scale, shift = parts
        y = before(op, linear, x, scale, shift)
        return refuse(y, linear.node) if isinstance(y, str) else y


def _per_input_channel(linear: Linear, array: Any) -> Float64 | None:
    """The constant as a number or, for Conv and ConvTranspose, one per input channel."""
    size = _input_rank(linear)
    if array.size == 1 and array.ndim <= size:
        return np.asarray(array, np.float64).reshape(())
    if not linear.is_conv or array.ndim > size:
        return None
    shape = (1,) * (size - array.ndim) + tuple(array.shape)
    channels = input_channels(linear)
    if shape != (1, channels, *(1,) * (size - 2)):
        return None
    return np.asarray(array, np.float64).reshape(-1)


def _input_rank(linear: Linear) -> int:
    """How many axes the input of the node has, at least in case of a MatMul."""
    if linear.is_conv:
        return rank(linear.weight) or 0
    return 2 if linear.node.op_type == "Gemm" else 1


def _keeps_shape(linear: Linear, x: ir.Value, array: Any) -> bool:
    """True if arithmetic of `x` with the constant provably has the shape of `x`."""
    shape = dims(x)
    if array.size > 1:
        return shape is not None and shape[1:2] == (array.size,) and array.ndim <= len(shape)
    # With fewer axes than the node reads it cannot be the constant that brings them.
    return array.ndim < _input_rank(linear) or (shape is not None and array.ndim <= len(shape))


def _shift_refused(linear: Linear, shift: Float64) -> str | None:
    """Why a shift in front cannot be folded; "" if it can; None if it is not expected to be."""
    if linear.node.op_type != "Conv":
        return None
    if not unpadded(linear.node):
        return "the Conv pads, and its zeros are not shifted"
    assert linear.weight.dtype is not None
    if float(np.max(np.abs(shift))) > _LARGEST_SHIFT.get(linear.weight.dtype, 1.0):
        return "the shift is so large that folding it would lose digits"
    return ""

"""BatchNormalization in inference mode folded into the linear node before or after it.

    BatchNormalization(Linear(x, W, b))            -> Linear(x, W * s, b * s + t)
    BatchNormalization(Layout(Linear(x, W, b)))    -> Layout(Linear(x, W * s, b * s + t))
    Linear(BatchNormalization(x), W, b)            -> Linear(x, W * s, b + W t)
    Gemm(Flatten(BatchNormalization(x)), W, b)     -> Gemm(Flatten(x), W * s, b + W t)

    s = scale / sqrt(var + epsilon),  t = B - mean * s

Linear is Conv, ConvTranspose (any group), Gemm (any transB, alpha, beta) or MatMul with a constant
weight, with or without the Add of a constant. Layout is a Transpose, Unsqueeze or Reshape that
keeps the channels of the linear node on one axis, as exporters spell BatchNorm1d.

Refused: training mode; statistics that are not constants; a linear output or normalized value with
other users (both forms would have to be computed); MatMul outputs of rank 3 and more, whose
features are not the channels (axis 1) of the normalization, unless a Transpose between them makes
it so; in front of a Conv that pads, since its zeros are not normalized, and of ConvTranspose; in
front of a linear node also a mean that lies further than 64 standard deviations from zero, where
x * s + t loses the digits that (x - mean) * s keeps; what `linear` refuses. Subgraphs are
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
from onnxopt.graph.values import constant, constant_ints, dims, int_attribute, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    ints_parameter,
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

_LAYOUT = ("Transpose", "Unsqueeze", "Reshape")
_FLATTEN = ("Flatten", "Reshape")

# How many standard deviations the mean may lie from zero before x * s + t cancels.
_FAR_MEAN = 64.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseConvBatchNorm(RewritePass):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before or after it."""

    name: ClassVar[str] = "fuse-conv-batch-norm"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for the linear node in front, three for the linear node behind."""
        return [
            _AfterLinear.rule("BatchNormalization", "batch-norm-after-linear"),
            _BeforeLinear.rule("Conv", "batch-norm-before-conv"),
            _BeforeLinear.rule("Gemm", "batch-norm-before-gemm"),
            _BeforeLinear.rule("MatMul", "batch-norm-before-matmul"),
        ]


@dataclasses.dataclass(frozen=True)
class _Affine:
    """BatchNormalization as x * scale + shift, one number per channel."""

    scale: Float64
    shift: Float64
    far: float  # how many standard deviations the farthest mean lies from zero


def _affine(node: ir.Node, model: ir.Model) -> _Affine | str:
    version = opset_version(node, model)
    if version >= 14:
        training = int_attribute(node, "training_mode", 0) != 0
    elif version >= 7:
        training = len([value for value in node.outputs if value.name]) > 1
    else:
        training = int_attribute(node, "is_test", 0) == 0
    if training:
        return "the normalization is in training mode"
    if version < 9 and int_attribute(node, "spatial", 1) != 1:
        return "the normalization has spatial=0: one mean per element, not per channel"
    arrays = [constant(value) for value in node.inputs[1:5]]
    if len(arrays) < 4 or any(array is None for array in arrays):
        return "the statistics of the normalization are not constants"
    scale, bias, mean, var = (array.astype(np.float64) for array in arrays if array is not None)
    if scale.ndim != 1 or not scale.shape == bias.shape == mean.shape == var.shape:
        return "the statistics of the normalization are not one number per channel"
    epsilon = node.attributes.get("epsilon")
    deviation = np.sqrt(var + (1e-5 if epsilon is None else epsilon.as_float()))
    with np.errstate(all="ignore"):
        factor = scale / deviation
        far = float(np.max(np.abs(mean) / deviation, initial=0.0))
        shift = bias - mean * factor
    if not (np.all(np.isfinite(factor)) and np.all(np.isfinite(shift))):
        return "the statistics of the normalization are not finite"
    return _Affine(factor, shift, far)


def _axis_before_layout(node: ir.Node, axis: int) -> int | None:
    """Which axis of the input becomes `axis` of the output; negative ones count from the end."""
    x = node.inputs[0]
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        size = rank(x)
        order = list(perm.as_ints()) if perm is not None else list(range(size or 0))[::-1]
        return order[axis] if axis < len(order) else None
    if node.op_type == "Unsqueeze":
        axes = ints_parameter(node, "axes", 1)
        if not axes or min(axes) <= axis:
            return None
        return axis
    before_shape, after_shape = dims(x), dims(node.outputs[0])
    target = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if before_shape is None:
        return None
    # [N, C] -> [N, C, 1, 1] and [N, T, C] -> [N * T, C] keep the channels on one axis.
    if after_shape is None or len(after_shape) <= axis or not isinstance(after_shape[axis], int):
        after_shape = target
    if after_shape is None or len(after_shape) <= axis:
        return None
    channels = after_shape[axis]
    rest = after_shape[axis + 1 :]
    if not isinstance(channels, int) or channels <= 0 or any(dim != 1 for dim in rest):
        return None
    return len(before_shape) - 1 if before_shape[-1] == channels else None


class _AfterLinear(NodeRule):
    """`BatchNormalization(Linear(x))`, a layout operation between them allowed."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        layout = producer_of(node.inputs[0], *_LAYOUT)
        linear = linear_producer(node.inputs[0] if layout is None else layout.inputs[0])
        if linear is None:
            return no_match()
        if isinstance(linear, str):
            return refuse(f"node before: {linear}", node)
        if not only_user(linear.output) or not (layout is None or only_user(layout.outputs[0])):
            return refuse("the value before the normalization has other users", node)
        axis: int | None = 1
        if layout is not None:
            axis = _axis_before_layout(layout, 1)
        size = linear.rank
        if not linear.is_conv:
            if size is None:
                return refuse("the rank of the MatMul before is not known", node)
            if axis != size - 1:
                return refuse("it normalizes another axis than the features of the MatMul", node)
        elif axis != 1:
            return refuse("it normalizes another axis than the channels of the Conv", node)
        affine = _affine(node, context.model)
        if isinstance(affine, str):
            return refuse(affine, node)
        if affine.scale.shape != (linear.channels,):
            return refuse(f"{affine.scale.size} statistics for {linear.channels} channels", node)
        shared = shared_weight(linear, node)
        if shared:
            return refuse(shared, node)
        return found(parts=(linear, layout, affine))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Linear, ir.Node | None, _Affine]
    ) -> ir.Value | MatchResult:
        """The linear node with new constants, and the layout operation again."""
        linear, layout, affine = parts
        y = after(op, linear, affine.scale, affine.shift)
        if isinstance(y, str):
            return refuse(y, linear.node)
        if layout is None:
            return y
        moved: ir.Value = op.op(layout.op_type, y, *layout.inputs[1:], **layout.attributes)
        return moved


class _BeforeLinear(NodeRule):
    """`Linear(BatchNormalization(x))`, a Flatten between them allowed."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        flatten = producer_of(node.inputs[0], *_FLATTEN)
        normalized = node.inputs[0] if flatten is None else flatten.inputs[0]
        norm = producer_of(normalized, "BatchNormalization")
        if norm is None or normalized is None or norm.inputs[0] is None:
            return no_match()
        linear = read_linear(node)
        if linear is None:
            return no_match()
        if isinstance(linear, str):
            return refuse(f"node behind: {linear}", node)
        if not only_user(normalized) or not (flatten is None or only_user(flatten.outputs[0])):
            return refuse("the normalized value has other users", node)
        affine = _affine(norm, context.model)
        if isinstance(affine, str):
            return refuse(affine, node)
        reason = _misplaced(linear, flatten) or shared_weight(linear, node)
        if reason:
            return refuse(reason, node)
        if affine.far > _FAR_MEAN:
            reason = f"a mean lies {affine.far:.0f} standard deviations from zero"
            return refuse(f"{reason}: folding would lose digits", node)
        repeats, rest = divmod(input_channels(linear), affine.scale.size)
        if rest or (repeats != 1 and flatten is None):
            return refuse("the normalized axis is not the one that the node sums over", node)
        affine = _Affine(np.repeat(affine.scale, repeats), np.repeat(affine.shift, repeats), 0.0)
        return found(parts=(linear, norm.inputs[0], flatten, affine))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Linear, ir.Value, ir.Node | None, _Affine]
    ) -> ir.Value | MatchResult:
        """The linear node with new constants, on what was normalized before."""
        linear, x, flatten, affine = parts
        if flatten is not None:
            flat = flatten.outputs[0]
            x = op.op(flatten.op_type, x, *flatten.inputs[1:], **flatten.attributes)
            x.type, x.shape = flat.type, flat.shape
        y = before(op, linear, x, affine.scale, affine.shift)
        return refuse(y, linear.node) if isinstance(y, str) else y


def _misplaced(linear: Linear, flatten: ir.Node | None) -> str:
    """Why the channels of the normalization are not the inputs of the linear node, or ""."""
    if linear.is_conv:
        if flatten is not None:
            return "a Flatten or Reshape lies before the Conv"
        return "" if unpadded(linear.node) else "the Conv pads, and its zeros are not normalized"
    if int_attribute(linear.node, "transA", 0):
        return "the Gemm sums over the first axis"
    if flatten is None:
        known = linear.node.op_type == "Gemm" or rank(linear.node.inputs[0]) == 2
        return "" if known else "the channels are not known to be the last axis"
    if flatten.op_type == "Flatten":
        return "" if int_attribute(flatten, "axis", 1) == 1 else "the Flatten merges the channels"
    shape, flat = dims(flatten.inputs[0]), dims(flatten.outputs[0])
    if shape is not None and flat is not None and len(shape) >= 2 and len(flat) == 2:
        inner = shape[1:]
        sizes = [dim for dim in inner if isinstance(dim, int)]
        if len(sizes) == len(inner) and int(np.prod(sizes)) == flat[1]:
            return ""
    return "the Reshape between them may mix the channels"

"""Conv, ConvTranspose, Gemm and MatMul as one thing: y = W x + b with constant W and b.

What passes fold into such a node is always one affine map of its output or input channels,

    y * s + t            -> (W * s) x + (b * s + t)       s, t: a number or one per output channel
    W (x * s + t) + b    -> (W * s) x + (b + W t)         s, t: a number or one per input channel

computed in float64 and cast back to the type of the weight. New initializers are made; the old ones
are never overwritten. A MatMul followed by the Add of a constant counts as one node with a bias.

Refused: weights of types other than float16, bfloat16, float and double; results that overflow that
type or, in float16, become denormal; a weight that other nodes share, if a second version of it
makes the file larger than `SHARED_LIMIT` bytes. It does not if all of them are followed by the same
map: their new weights are equal and `DeduplicateInitializers` merges them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import constant, int_attribute, rank
from onnxopt.passes.cleanup.single_node import has_input, only_user, producer_of

Float64 = NDArray[np.float64]

OP_TYPES = ("Conv", "ConvTranspose", "Gemm", "MatMul")

# A weight that several nodes share and only one of them changes is stored twice from then on.
SHARED_LIMIT = 4096

# Part of the norm of a weight that the cast to float16 may lose.
_UNDERFLOW = 1e-3

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A node y = W x + b with constant W and b.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        add: The Add that brings the bias of a MatMul.
        weight: The second input of `node`.
        bias: The constant bias, in the shape that the graph gives it.
        channels: Number of output channels.
    """

    node: ir.Node
    add: ir.Node | None
    weight: ir.Value
    bias: ir.Value | None
    channels: int

    @property
    def output(self) -> ir.Value:
        """The value y."""
        return (self.add or self.node).outputs[0]

    @property
    def is_conv(self) -> bool:
        """True if the channels are axis 1 of the output and not its last axis."""
        return self.node.op_type in ("Conv", "ConvTranspose")

    @property
    def group(self) -> int:
        """Number of groups of a Conv or ConvTranspose."""
        return int_attribute(self.node, "group", 1)

    @property
    def rank(self) -> int | None:
        """Number of dimensions of the output."""
        if self.is_conv:
            return rank(self.weight)
        return 2 if self.node.op_type == "Gemm" else rank(self.output)

    @property
    def channel_axis(self) -> int:
        """Where the output has its channels; -1 for the last axis."""
        return 1 if self.is_conv else -1

    def per_channel(self, array: NDArray[Any]) -> Float64 | None:
        """The constant as a number or one number per output channel.

        None if it varies along another axis or if combining it with the output could enlarge it.
        """
        if array.ndim == 0:
            return array.astype(np.float64)
        if not self.is_conv and array.shape in ((1,), (self.channels,)):
            return array.astype(np.float64).reshape(-1 if array.size > 1 else ())
        output_rank = self.rank
        if output_rank is None or array.ndim > output_rank:
            return None
        shape = (1,) * (output_rank - array.ndim) + array.shape
        axis = self.channel_axis % output_rank
        if any(dim != 1 for index, dim in enumerate(shape) if index != axis):
            return None
        if shape[axis] not in (1, self.channels):
            return None
        return array.astype(np.float64).reshape(-1 if array.size > 1 else ())


def linear_producer(value: ir.Value | None) -> Linear | str | None:
    """The linear node that makes `value`; why it cannot be used; None if it is something else."""
    add = None
    node = producer_of(value, *OP_TYPES, "Add")
    if node is not None and node.op_type == "Add":
        add = node
        sources = [producer_of(operand, "MatMul") for operand in add.inputs]
        node = sources[0] or sources[1]
        if node is None or not only_user(node.outputs[0]):
            return None
    return None if node is None else read_linear(node, add)


def read_linear(node: ir.Node, add: ir.Node | None = None) -> Linear | str | None:
    """The node as a `Linear`; why it is none; None if that is ordinary (two computed operands)."""
    weight = node.inputs[1]
    array = constant(weight)
    if weight is None or array is None:
        return None if node.op_type == "MatMul" else "the weight is not a constant"
    if weight.dtype not in FLOATS:
        return f"the weight is of type {weight.dtype}"
    if node.op_type == "MatMul":
        if array.ndim != 2:
            return None
        channels = array.shape[1]
    elif node.op_type == "Gemm":
        channels = array.shape[0 if int_attribute(node, "transB", 0) else 1]
    elif node.op_type == "Conv":
        channels = array.shape[0]
    else:
        channels = array.shape[1] * int_attribute(node, "group", 1)
    bias = None
    if add is not None:
        bias = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    elif has_input(node, 2):
        bias = node.inputs[2]
    linear = Linear(node, add, weight, bias, channels)
    if bias is not None:
        array = constant(bias)
        if array is None:
            return None if add is not None else "the bias is not a constant"
        if _as_bias(linear, array) is None:
            return None
    return linear


def after(op: Any, linear: Linear, scale: Float64 | None, shift: Float64 | None) -> ir.Value | str:
    """The node again, with y -> y * scale + shift folded in, or why that is not possible."""
    weight: Float64 | None = None
    if scale is not None or _alpha(linear) != 1.0:
        factor = np.ones(()) if scale is None else scale
        weight = _scale_outputs(linear, _array(linear.weight), np.asarray(factor * _alpha(linear)))
    bias = _bias(linear)
    if bias is not None and scale is not None:
        bias = bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    return _build(op, linear, linear.node.inputs[0], weight, bias)


def before(
    op: Any,
    linear: Linear,
    x: ir.Value,
    scale: Float64 | None,
    shift: Float64 | None,
) -> ir.Value | str:
    """The node again on `x`, with x * scale + shift folded in, or why that is not possible.

    The caller makes sure that no padding lies between the map and the node if there is a shift.
    """
    array = _array(linear.weight) * _alpha(linear)
    bias = _bias(linear)
    if shift is not None and np.any(shift):
        by_input = _over_inputs(linear, shift)
        axes = _input_axes(linear)
        moved = np.sum(array * by_input, axis=axes)
        bias = moved if bias is None else bias + moved
    weight = None if scale is None else array * _over_inputs(linear, scale)
    return _build(op, linear, x, weight, bias)


def input_channels(linear: Linear) -> int:
    """Number of input channels: of the whole node, not of one of its groups."""
    shape = _shape(linear.weight)
    if linear.node.op_type == "Conv":
        return shape[1] * linear.group
    if linear.node.op_type == "Gemm" and int_attribute(linear.node, "transB", 0):
        return shape[1]
    return shape[0]


def shared_weight(linear: Linear, root: ir.Node) -> str:
    """Why a new version of the weight would be too large a second one, or ""."""
    others = [user for user, _ in linear.weight.uses() if user is not linear.node]
    if not others or linear.weight.const_value is None:
        return ""
    size = linear.weight.const_value.nbytes
    if size <= SHARED_LIMIT or all(_folds_alike(linear.node, user, root) for user in others):
        return ""
    return f"other nodes share its weight, and a second one takes {size} bytes"


def _folds_alike(node: ir.Node, other: ir.Node, root: ir.Node) -> bool:
    """True if `other` is the same node on other data, followed by the same `root`."""
    if other.op_type != node.op_type or not only_user(other.outputs[0]):
        return False
    (follower,) = other.outputs[0].consumers()
    return (
        follower.op_type == root.op_type
        and list(follower.inputs[1:]) == list(root.inputs[1:])
        and list(other.inputs[1:]) == list(node.inputs[1:])
    )


def _array(value: ir.Value) -> Float64:
    array = constant(value)
    assert array is not None
    return array.astype(np.float64)


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _alpha(linear: Linear) -> float:
    attribute = linear.node.attributes.get("alpha") if linear.node.op_type == "Gemm" else None
    return 1.0 if attribute is None else attribute.as_float()


def _bias(linear: Linear) -> Float64 | None:
    """The bias as a number or one number per channel, Gemm's beta included."""
    if linear.bias is None:
        return None
    array = constant(linear.bias)
    assert array is not None
    bias = _as_bias(linear, array)
    assert bias is not None
    attribute = linear.node.attributes.get("beta") if linear.node.op_type == "Gemm" else None
    return bias if attribute is None else bias * attribute.as_float()


def _as_bias(linear: Linear, array: NDArray[Any]) -> Float64 | None:
    # The bias of a Conv is a list of channels and does not broadcast.
    if linear.is_conv:
        return array.astype(np.float64) if array.shape == (linear.channels,) else None
    return linear.per_channel(array)


def _scale_outputs(linear: Linear, array: Float64, scale: Float64) -> Float64:
    if scale.ndim == 0:
        return array * scale
    if linear.node.op_type == "ConvTranspose":
        # [C_in, C_out/g, ...]: output channel j of group k is scaled by scale[k * C_out/g + j].
        grouped = array.reshape(linear.group, -1, *array.shape[1:])
        spatial = (1,) * (array.ndim - 2)
        return (grouped * scale.reshape(linear.group, 1, -1, *spatial)).reshape(array.shape)
    if linear.is_conv:
        return array * scale.reshape(-1, *(1,) * (array.ndim - 1))
    if int_attribute(linear.node, "transB", 0):
        return array * scale[:, None]
    return array * scale


def _over_inputs(linear: Linear, values: Float64) -> Float64:
    """One number per input channel, in a shape that lines up with the weight."""
    if values.ndim == 0:
        return values
    if linear.node.op_type == "Conv":
        shape = _shape(linear.weight)
        # [C_out, C_in/g, ...]: the outputs of group k read the inputs k * C_in/g and up.
        per_group = values.reshape(linear.group, shape[1])
        per_output = np.repeat(per_group, shape[0] // linear.group, axis=0)
        return per_output.reshape(shape[0], shape[1], *(1,) * (len(shape) - 2))
    if linear.node.op_type == "ConvTranspose":
        return values.reshape(-1, *(1,) * (len(_shape(linear.weight)) - 1))
    return values if int_attribute(linear.node, "transB", 0) else values[:, None]


def _input_axes(linear: Linear) -> tuple[int, ...]:
    if linear.node.op_type == "Conv":
        return tuple(range(1, len(_shape(linear.weight))))
    return (1,) if int_attribute(linear.node, "transB", 0) else (0,)


def _build(
    op: Any, linear: Linear, x: ir.Value | None, weight: Float64 | None, bias: Float64 | None
) -> ir.Value | str:
    dtype = linear.weight.dtype
    assert dtype is not None
    base = linear.weight.name or "weight"
    new_weight = linear.weight
    if weight is not None:
        tensor = narrowed(weight, dtype)
        if tensor is None:
            return f"the folded weight leaves the range of {dtype}"
        new_weight = op.initializer(tensor, name=base)
    inputs = [x, new_weight]
    new_bias = None
    if bias is not None:
        tensor = narrowed(np.broadcast_to(bias, (linear.channels,)), dtype)
        if tensor is None:
            return f"the folded bias leaves the range of {dtype}"
        name = linear.bias.name if linear.bias is not None else None
        new_bias = op.initializer(tensor, name=name or f"{base}_bias")
    if new_bias is not None and linear.node.op_type != "MatMul":
        inputs.append(new_bias)
    # alpha and beta are in the new constants already.
    attributes = {k: v for k, v in linear.node.attributes.items() if k not in ("alpha", "beta")}
    y: ir.Value = op.op(linear.node.op_type, *inputs, _name=linear.node.name, **attributes)
    if new_bias is not None and linear.node.op_type == "MatMul":
        y.type, y.shape = linear.node.outputs[0].type, linear.node.outputs[0].shape
        y = op.Add(y, new_bias)
    y.type, y.shape = linear.output.type, linear.output.shape
    return y


def narrowed(array: NDArray[Any], dtype: ir.DataType) -> ir.Tensor[Any] | None:
    """The array cast to `dtype`, or None if it does not fit into the range of that type."""
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array).astype(dtype.numpy())
    if not np.all(np.isfinite(result) | ~np.isfinite(array)):
        return None
    if dtype == ir.DataType.FLOAT16:
        # Rounding costs 3e-4 of the norm; numbers that became denormal or zero cost more.
        lost = np.linalg.norm((result.astype(np.float64) - array).reshape(-1))
        if lost > _UNDERFLOW * np.linalg.norm(np.asarray(array).reshape(-1)):
            return None
    return ir.Tensor(result, dtype=dtype)


def unpadded(node: ir.Node) -> bool:
    """True if a Conv reads no element outside of its input."""
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        return False
    pads = node.attributes.get("pads")
    return pads is None or not any(pads.as_ints())

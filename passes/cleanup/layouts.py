"""What becomes of a node when the tensors that it works on are transposed.

`flip(node, perm, ...)` answers for one node: its tensors are now `Transpose(x, perm)`; can it work
on the `x` instead? Axis a of what it sees now is axis perm[a] then.

- Elementwise operators do, with constants transposed to match and scalars as they are.
- Concat, Split, Softmax, reductions, Pad, Slice, ... do with other axes.
- MatMul with a matrix and LayerNormalization do if the last axis stays the last.
- A Squeeze or a reduction without keepdims gives the same result if the axes that are left keep
  their order; so does a Reshape, if all that moves are axes of size 1.

A Softmax over the last axis is not moved to another one, where runtimes transpose internally.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import (
    constant,
    constant_ints,
    dims,
    int_attribute,
    rank,
    static_dims,
)
from onnxopt.passes.cleanup.single_node import has_input, ints_parameter

_UNARY = {
    *("Relu", "Sigmoid", "Tanh", "Erf", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu"),
    *("Selu", "Celu", "Gelu", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "Cast", "Neg"),
    *("Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos"),
    *("Not", "IsNaN", "IsInf", "Identity", "QuantizeLinear", "DequantizeLinear", "CastLike"),
}
_BROADCAST = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Mod"),
    *("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Where", "PRelu"),
}
_SOFTMAX = {"Softmax", "LogSoftmax", "Hardmax"}
_REDUCE = {
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
}
Perm = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Flip:
    """How to rewrite a node for transposed tensors.

    Attributes:
        operands: Positions of the inputs that are given in the other layout.
        attributes: Attributes with new values.
        constants: Inputs that are replaced by new constants.
        leaves: The output is the same as before: the layout ends here.
    """

    operands: tuple[int, ...] = (0,)
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    constants: dict[int, NDArray[Any]] = dataclasses.field(default_factory=dict)
    leaves: bool = False


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(axis) for axis in np.argsort(perm))


def flip(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    """How the node works on x where it now works on Transpose(x, perm), or None."""
    size = len(perm)
    if node.domain or not node.inputs:
        return None
    if node.op_type in _BROADCAST:
        return _broadcast(node, size, version)
    if rank(node.inputs[0]) != size:
        return None
    if node.op_type in _UNARY:
        return _unary(node, perm)
    handler = _HANDLERS.get(node.op_type)
    return None if handler is None else handler(node, perm, version)


def flipped_constant(array: NDArray[Any], perm: Perm) -> NDArray[Any]:
    """The constant in the other layout, first given all its dimensions."""
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return np.ascontiguousarray(np.transpose(full, inverse(perm)))


def _is_single(value: ir.Value | None, size: int) -> bool:
    """True if the value is one element that broadcasts in every layout."""
    shape = static_dims(value)
    return shape is not None and len(shape) <= size and all(dim == 1 for dim in shape)


def _broadcast(node: ir.Node, size: int, version: int) -> Flip | None:
    if version < 7 or rank(node.outputs[0]) != size:
        return None
    operands = [
        index
        for index, value in enumerate(node.inputs)
        if value is not None and not _is_single(value, size)
    ]
    if not any(rank(node.inputs[i]) == size and constant(node.inputs[i]) is None for i in operands):
        return None
    for index in operands:
        value_rank = rank(node.inputs[index])
        if value_rank is None or (value_rank < size and constant(node.inputs[index]) is None):
            return None
    return Flip(tuple(operands))


def _unary(node: ir.Node, perm: Perm) -> Flip | None:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return Flip()
    if int_attribute(node, "block_size", 0):
        return None
    if rank(node.inputs[1]) == 0 or _is_single(node.inputs[1], 1):
        return Flip()
    if rank(node.inputs[1]) != 1:
        return None
    axis = int_attribute(node, "axis", 1) % len(perm)
    return Flip(attributes={"axis": perm[axis]})


def _axis(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    defaults = {"Concat": 1, "Softmax": -1, "LogSoftmax": -1, "Hardmax": -1}
    axis = int_attribute(node, "axis", defaults.get(node.op_type, 0)) % len(perm)
    last = len(perm) - 1
    if node.op_type in _SOFTMAX:
        if version < 13 and "axis" not in node.attributes:
            axis = 1
        # Before opset 13 all axes from this one on are taken together.
        if perm[axis] != last and (version < 13 or axis == last):
            return None
        if version < 13 and axis != last:
            return None
    if node.op_type == "Gather" and rank(node.inputs[1]) != 1:
        return None
    if node.op_type.startswith("Arg") and int_attribute(node, "keepdims", 1) == 0:
        return _leaving(perm, {axis}, attributes={"axis": perm[axis]})
    operands = tuple(range(len(node.inputs))) if node.op_type == "Concat" else (0,)
    if any(rank(node.inputs[i]) != len(perm) for i in operands):
        return None
    return Flip(operands, {"axis": perm[axis]})


def _leaving(perm: Perm, gone: set[int], **changes: Any) -> Flip | None:
    """A flip without an effect on the output, which only has the axes that are not `gone`."""
    order = [perm[axis] for axis in range(len(perm)) if axis not in gone]
    return Flip(leaves=True, **changes) if order == sorted(order) else None


def _axes_change(node: ir.Node, index: int, axes: Sequence[int]) -> dict[str, Any]:
    if "axes" in node.attributes:
        return {"attributes": {"axes": list(axes)}}
    return {"constants": {index: np.array(axes, np.int64)}}


def _reduce(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    axes = ints_parameter(node, "axes", 1)
    if axes is None:
        return None
    reduced = {axis % len(perm) for axis in axes}
    changes = _axes_change(node, 1, sorted(perm[axis] for axis in reduced)) if axes else {}
    if int_attribute(node, "keepdims", 1) == 1:
        return Flip(**changes)
    if not axes and int_attribute(node, "noop_with_empty_axes", 0) == 1:
        return Flip()
    return _leaving(perm, reduced, **changes) if axes else Flip(leaves=True)


def _squeeze(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    axes = ints_parameter(node, "axes", 1)
    if not axes:
        return None
    gone = {axis % len(perm) for axis in axes}
    return _leaving(perm, gone, **_axes_change(node, 1, sorted(perm[axis] for axis in gone)))


def _reshape(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    shape, target = dims(node.inputs[0]), ints_parameter(node, "shape", 1)
    if shape is None or not target or 0 in target:
        return None
    return _leaving(perm, {axis for axis, size in enumerate(shape) if size == 1})


def _pad(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    if has_input(node, 3):
        axes = constant_ints(node.inputs[3])
        new = None if axes is None else [perm[axis % len(perm)] for axis in axes]
        return None if new is None else Flip(constants={3: np.array(new, np.int64)})
    pads = ints_parameter(node, "pads", 1)
    if pads is None or len(pads) != 2 * len(perm):
        return None
    order = inverse(perm)
    new = [pads[axis] for axis in order] + [pads[len(perm) + axis] for axis in order]
    if "pads" in node.attributes:
        return Flip(attributes={"pads": new})
    return Flip(constants={1: np.array(new, np.int64)})


def _slice(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    axes = ints_parameter(node, "axes", 3)
    if axes == () and not has_input(node, 3):
        count = static_dims(node.inputs[1]) if version >= 10 else None
        starts = ints_parameter(node, "starts", 1)
        length = count[0] if count else None if starts is None else len(starts)
        axes = None if length is None else tuple(range(length))
    if axes is None:
        return None
    new = [perm[axis % len(perm)] for axis in axes]
    starts_type = None if version < 10 or node.inputs[1] is None else node.inputs[1].dtype
    if version < 10:
        return Flip(attributes={"axes": new})
    if starts_type is None:
        return None
    return Flip(constants={3: np.array(new, starts_type.numpy())})


def _per_axis_input(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    """Tile and Expand: one number for each axis."""
    numbers = constant_ints(node.inputs[1]) if version >= 6 else None
    if numbers is None or len(numbers) != len(perm):
        return None
    return Flip(constants={1: np.array([numbers[axis] for axis in inverse(perm)], np.int64)})


def _last_axis(node: ir.Node, perm: Perm, version: int) -> Flip | None:
    """MatMul with a matrix and LayerNormalization over the last axis."""
    last = len(perm) - 1
    if perm[last] != last:
        return None
    if node.op_type == "MatMul":
        return Flip() if last > 1 and rank(node.inputs[1]) == 2 else None
    over_last = int_attribute(node, "axis", -1) in (-1, last) and len(node.outputs) == 1
    return Flip() if over_last else None


_HANDLERS = {
    **dict.fromkeys(("Concat", "Split", "Gather", "ArgMax", "ArgMin", *_SOFTMAX), _axis),
    **dict.fromkeys(_REDUCE, _reduce),
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Pad": _pad,
    "Slice": _slice,
    **dict.fromkeys(("Tile", "Expand"), _per_axis_input),
    **dict.fromkeys(("MatMul", "LayerNormalization"), _last_axis),
}

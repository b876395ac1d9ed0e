"""Element-wise operators: equal axes correspond, broadcast ones of size 1 do not matter."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder


def set_of(names: str) -> frozenset[str]:
    """The op types of a text."""
    return frozenset(names.split())


# f(0) = 0 for one operand, or f(0, 0, ..) = 0 where every operand has the axis.
_KEEP_ZERO = set_of(
    "Abs Add Asin Asinh Atan Atanh BiasGelu Cast CastLike Ceil Celu Dropout Elu Erf FastGelu Floor "
    "Gelu HardSwish Identity LeakyRelu Max Mean Min Mish Neg QuickGelu Relu Round Selu Shrink "
    "Sign Sin Sinh Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu"
)
_CHANGE_ZERO = set_of(
    "Acos Acosh And BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Clip Cos Cosh Div Equal Exp Greater "
    "GreaterOrEqual HardSigmoid IsInf IsNaN Less LessOrEqual Log Mod Mul Not Or PRelu Pow "
    "Reciprocal Sigmoid Softplus Where Xor"
)
ELEMENTWISE = _KEEP_ZERO | _CHANGE_ZERO
# Inputs beyond the first are no tensors to broadcast with, but parameters.
_ONE_OPERAND = frozenset(("Cast", "CastLike", "Dropout", "Clip"))


def elementwise(builder: AxisBuilder, node: ir.Node) -> None:
    """Every element of the output depends on the elements at its place."""
    operands = [value for value in node.inputs if value is not None]
    if node.op_type in _ONE_OPERAND:
        operands = operands[:1]
    for output in node.outputs:
        if output.name:
            broadcast(builder, operands, output)
    _mark_offsets(builder, node, operands)


def broadcast(
    builder: AxisBuilder, operands: list[ir.Value], output: ir.Value, *, but: int = 0
) -> None:
    """Joins the axes of an output with those of operands, aligned at the last one.

    Args:
        builder: What takes the relations.
        operands: Inputs that broadcast together.
        output: The result.
        but: Number of last axes that are left alone.
    """
    rank = builder.rank(output)
    for operand in operands:
        for index, dim in enumerate(builder.dims(operand)[: builder.rank(operand) - but]):
            slot = builder.axis(operand, index)
            if dim != 1:
                builder.join(output, index + rank - builder.rank(operand), slot)


def _mark_offsets(builder: AxisBuilder, node: ir.Node, operands: list[ir.Value]) -> None:
    """Marks the axes whose zeros the operator may turn into something else."""
    output = node.outputs[0]
    for index, dim in enumerate(builder.dims(output)):
        if dim != 1 and not _keeps_zero(builder, node, operands, builder.rank(output) - index):
            builder.mark(builder.slots[output][index], "offset")


def _keeps_zero(
    builder: AxisBuilder, node: ir.Node, operands: list[ir.Value], from_end: int
) -> bool:
    def has(operand: ir.Value) -> bool:
        dims = builder.dims(operand)
        return len(dims) >= from_end and dims[-from_end] != 1

    kind = node.op_type
    if kind in _KEEP_ZERO:
        return all(has(operand) for operand in operands)
    if kind == "Mul":
        return True
    if kind in ("Div", "PRelu"):
        return has(operands[0]) and (kind == "PRelu" or not has(operands[1]))
    if kind == "Pow":
        exponent = builder.inference.constants.array(operands[1])
        return exponent is not None and has(operands[0]) and bool(np.all(exponent > 0))
    if kind == "Clip":
        return _spans_zero(builder, node)
    return False


def _spans_zero(builder: AxisBuilder, node: ir.Node) -> bool:
    for index, name in ((1, "min"), (2, "max")):
        value = node.inputs[index] if index < len(node.inputs) else None
        attribute = node.attributes.get(name)
        if value is not None:
            array = builder.inference.constants.array(value)
            bound = None if array is None else float(array)
        else:
            bound = 0.0 if attribute is None else attribute.as_float()
        if bound is None or (bound > 0 if name == "min" else bound < 0):
            return False
    return True

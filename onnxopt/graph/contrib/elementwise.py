"""Operators whose output has the shape of their inputs, and those that halve or reduce an axis."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.contrib.rules import (
    BOOL,
    FLOAT,
    INT32,
    FactRule,
    broadcast,
    fact_of,
    named,
    same,
    share,
)
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import RuleInputs
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute, ints_attribute


def _quantize(inputs: RuleInputs) -> list[Fact]:
    zero_point = fact_of(inputs, 2).dtype or ir.DataType.UINT8.value
    return [Fact(zero_point, inputs.dims(0))]


def _dequantize(inputs: RuleInputs) -> list[Fact]:
    return [Fact(fact_of(inputs, 1).dtype or FLOAT, inputs.dims(0))]


def _halved(inputs: RuleInputs) -> list[Fact]:
    """One half of the last axis gates the other."""
    data = fact_of(inputs, 0)
    if inputs.has(1) and inputs.node.op_type == "SwiGLU":
        return [data]
    if not data.dims:
        return [Fact(data.dtype, None)]
    return [Fact(data.dtype, named(inputs, (*data.dims[:-1], share(data.dims[-1], 2))))]


def _dropout(inputs: RuleInputs) -> list[Fact]:
    data = fact_of(inputs, 0)
    return [data, Fact(BOOL, data.dims)]


def _reduced(dtype: int | None = None) -> FactRule:
    """Reduced over the axes of an attribute, over all without one."""

    def rule(inputs: RuleInputs) -> list[Fact]:
        data = fact_of(inputs, 0)
        result = data.dtype if dtype is None else dtype
        if not data.dims:
            return [Fact(result, data.dims)]
        count = len(data.dims)
        axes = ints_attribute(inputs.node, "axes")
        reduced = {axis % count for axis in (range(count) if axes is None else axes)}
        kept = int_attribute(inputs.node, "keepdims", 1)
        pairs = ((1 if axis in reduced else dim, axis) for axis, dim in enumerate(data.dims))
        return [Fact(result, tuple(dim for dim, axis in pairs if kept or axis not in reduced))]

    return rule


def _rfft(inputs: RuleInputs) -> list[Fact]:
    """Real to complex numbers, which are pairs on a new last axis; one-sided by default."""
    data = fact_of(inputs, 0)
    if not data.dims:
        return [Fact(data.dtype, None)]
    size: Dim | None = data.dims[-1]
    if int_attribute(inputs.node, "onesided", 1) and size is not None:
        size = _plus_one(symbolic.div(size, 2))
    return [Fact(data.dtype, named(inputs, (*data.dims[:-1], size, 2)))]


def _irfft(inputs: RuleInputs) -> list[Fact]:
    """Complex to real numbers."""
    data = fact_of(inputs, 0)
    if data.dims is None or len(data.dims) < 2:
        return [Fact(data.dtype, None)]
    size: Dim | None = data.dims[-2]
    if int_attribute(inputs.node, "onesided", 1) and size is not None:
        less = symbolic.sub(size, 1)
        size = None if less is None else symbolic.mul(less, 2)
    return [Fact(data.dtype, named(inputs, (*data.dims[:-2], size)))]


def _plus_one(dim: Dim | None) -> Dim | None:
    return None if dim is None else symbolic.add(dim, 1)


_LIKE_FIRST = """
BiasAdd BiasGelu BiasSoftmax FastGelu Gelu Inverse QLinearLeakyRelu QLinearSigmoid QLinearSoftmax
QuickGelu ScaledSiLU Trilu
"""

ELEMENTWISE_RULES: dict[str, FactRule] = {
    **dict.fromkeys(_LIKE_FIRST.split(), same()),
    "BiasDropout": _dropout,
    "BiasSplitGelu": _halved,
    "ComplexMul": broadcast(0, 1),
    "ComplexMulConj": broadcast(0, 1),
    "DequantizeLinear": _dequantize,
    "Irfft": _irfft,
    "MulInteger": broadcast(0, 2, dtype=INT32),
    "QLinearAdd": broadcast(0, 3),
    "QLinearMul": broadcast(0, 3),
    "QLinearReduceMean": _reduced(),
    "QLinearWhere": broadcast(0, 1, 4, like=1),
    "QuantizeLinear": _quantize,
    "ReduceSumInteger": _reduced(dtype=INT32),
    "Rfft": _rfft,
    "SwiGLU": _halved,
}

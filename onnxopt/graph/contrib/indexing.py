"""Gathering, joining and padding."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.contrib.rules import INT64, FactRule, fact_of, length, multiple, named
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import RuleInputs
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute


def _gather_block_quantized(inputs: RuleInputs) -> list[Fact]:
    """Rows of a quantized table; bytes that hold several numbers do so on the last axis."""
    data, indices = fact_of(inputs, 0), inputs.dims(1)
    dtype = fact_of(inputs, 2).dtype
    if not data.dims or indices is None:
        return [Fact(dtype, None)]
    rows: list[Dim | None] = list(data.dims)
    if data.dtype == ir.DataType.UINT8.value:
        bits = int_attribute(inputs.node, "bits", 4)
        rows[-1] = multiple(data.dims[-1], 8 // bits) if bits in (2, 4, 8) else None
    axis = int_attribute(inputs.node, "gather_axis", 0) % len(rows)
    return [Fact(dtype, named(inputs, (*rows[:axis], *indices, *rows[axis + 1 :])))]


def _gather_nd(inputs: RuleInputs) -> list[Fact]:
    data, indices = fact_of(inputs, 0), inputs.dims(1)
    if data.dims is None or not indices or not isinstance(indices[-1], int):
        return [Fact(data.dtype, None)]
    return [Fact(data.dtype, (*indices[:-1], *data.dims[indices[-1] :]))]


def _qlinear_concat(inputs: RuleInputs) -> list[Fact]:
    """Inputs: scale and zero point of the output, then (tensor, scale, zero point) each."""
    tensors = [fact_of(inputs, index) for index in range(2, len(inputs.facts), 3)]
    dtype = fact_of(inputs, 1).dtype
    shapes = [fact.dims for fact in tensors if fact.dims]
    if len(shapes) < len(tensors) or len({len(shape) for shape in shapes}) != 1:
        return [Fact(dtype, None)]
    axis = int_attribute(inputs.node, "axis", 0) % len(shapes[0])
    total: Dim | None = 0
    for shape in shapes:
        total = None if total is None else symbolic.add(total, shape[axis])
    first = shapes[0]
    return [Fact(dtype, named(inputs, (*first[:axis], total, *first[axis + 1 :])))]


def _pad(inputs: RuleInputs) -> list[Fact]:
    data = fact_of(inputs, 0)
    if data.dims is None:
        return [Fact(data.dtype, None)]
    count, pads = len(data.dims), inputs.elements(1)
    if pads is None or len(pads) != 2 * count:
        return [Fact(data.dtype, named(inputs, [None] * count))]
    dims: list[Dim | None] = []
    for axis, dim in enumerate(data.dims):
        before, after = pads[axis], pads[axis + count]
        more = None if before is None or after is None else symbolic.add(before, after)
        dims.append(None if more is None else symbolic.add(dim, more))
    return [Fact(data.dtype, named(inputs, dims))]


def _expand_dims(inputs: RuleInputs) -> list[Fact]:
    data, axis = fact_of(inputs, 0), length(inputs, 1)
    if data.dims is None or not isinstance(axis, int):
        return [Fact(data.dtype, None)]
    place = axis + len(data.dims) + 1 if axis < 0 else axis
    return [Fact(data.dtype, (*data.dims[:place], 1, *data.dims[place:]))]


def _unique(inputs: RuleInputs) -> list[Fact]:
    data, count = fact_of(inputs, 0), inputs.symbols.fresh()
    return [Fact(data.dtype, (count,)), Fact(INT64, data.dims), Fact(INT64, (count,))]


INDEXING_RULES: dict[str, FactRule] = {
    "ExpandDims": _expand_dims,
    "GatherBlockQuantized": _gather_block_quantized,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "QLinearConcat": _qlinear_concat,
    "Unique": _unique,
}

"""Concat, Split, Slice, Gather, Pad: positions move, appear or disappear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder, Slot
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute, ints_attribute


def concat(builder: AxisBuilder, node: ir.Node) -> None:
    """Positions of the inputs follow one another along the axis."""
    output = node.outputs[0]
    rank = builder.rank(output)
    axis = int_attribute(node, "axis", 1) % rank
    operands = [value for value in node.inputs if value is not None]
    for index in range(rank):
        if index != axis:
            for value in operands:
                builder.join(output, index, builder.axis(value, index))
    sizes = [builder.dims(value)[axis] for value in operands]
    whole = builder.plain_slot(builder.new_output_axis(output, axis))
    if whole is None or not all(isinstance(size, int) for size in sizes):
        return
    _tie_parts(builder, whole, [builder.axis(value, axis) for value in operands], sizes)


def split(builder: AxisBuilder, node: ir.Node) -> None:
    """Positions of the outputs follow one another along the axis of the input."""
    x = node.inputs[0]
    assert x is not None
    rank = builder.rank(x)
    axis = int_attribute(node, "axis", 0) % rank
    _others(builder, x, node, axis)
    given = len(node.inputs) > 1 and node.inputs[1] is not None
    if given and builder.constant_ints(node.inputs[1]) is None:
        return
    whole = builder.plain(x, axis)
    sizes = [builder.dims(output)[axis] for output in node.outputs]
    if whole is None or not all(isinstance(size, int) for size in sizes):
        return
    parts = [builder.new_output_axis(output, axis) for output in node.outputs]
    _tie_parts(builder, whole, parts, sizes)


def _tie_parts(
    builder: AxisBuilder, whole: int, parts: Sequence[Slot], sizes: Sequence[Dim]
) -> None:
    """Ties the positions of a variable to those of parts that follow one another."""
    start = 0
    for slot, size in zip(parts, sizes, strict=True):
        assert isinstance(size, int)
        positions = np.arange(start, start + size)
        part = builder.plain_slot(slot)
        if part is None:
            builder.variables.pin(whole, f"{builder.where}: a part of size 1", positions)
        else:
            builder.variables.tie(whole, positions, part, np.arange(size))
        start += size


def slices(builder: AxisBuilder, node: ir.Node) -> None:
    """Constant bounds with step 1 along followed axes; other slices pin the axis."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    rank = builder.rank(x)
    bounds = slice_bounds(builder, node, rank)
    if bounds is None:
        return
    for index in range(rank):
        if index not in bounds:
            builder.join(output, index, builder.axis(x, index))
            continue
        start, end, step = bounds[index]
        size = builder.dims(x)[index]
        if not isinstance(size, int) or step != 1:
            continue
        positions = np.arange(size)[start:end]
        if len(positions) == size:
            builder.join(output, index, builder.axis(x, index))
            continue
        _take(builder, x, output, index, positions)


def slice_bounds(
    builder: AxisBuilder, node: ir.Node, rank: int
) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step by axis; None if they are not constant."""
    if "starts" in node.attributes:
        lists = [ints_attribute(node, name) for name in ("starts", "ends", "axes")]
    else:
        lists = []
        for index in range(1, 5):
            value = node.inputs[index] if index < len(node.inputs) else None
            found = builder.constant_ints(value)
            if value is not None and found is None:
                return None
            lists.append(None if found is None else tuple(found))
    starts, ends = lists[0], lists[1]
    assert starts is not None
    assert ends is not None
    axes = lists[2] or tuple(range(len(starts)))
    steps = (lists[3] if len(lists) > 3 else None) or (1,) * len(starts)
    return {
        axis % rank: (start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def gather(builder: AxisBuilder, node: ir.Node) -> None:
    """Constant indices pick positions; the rows that other indices pick are all needed."""
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None
    assert indices is not None
    output = node.outputs[0]
    axis = int_attribute(node, "axis", 0) % builder.rank(data)
    inner = builder.rank(indices)
    for index in range(builder.rank(data)):
        if index != axis:
            place = index if index < axis else index + inner - 1
            builder.join(output, place, builder.axis(data, index))
    picked = builder.constant_ints(indices)
    size = builder.dims(data)[axis]
    if picked is None or not isinstance(size, int):
        for index in range(inner):
            builder.join(output, axis + index, builder.axis(indices, index))
        # Whoever frees the rows of a table sees to the numbers that pick them.
        if axis == 0 and data.name in builder.free_rows:
            builder.axis(data, axis)
        else:
            builder.pin(data, axis, f"{builder.where} reads rows by index")
        return
    positions = np.asarray(picked, np.int64) % size
    # An index that several places share stays one position: it goes only with all of them.
    if inner == 1 and len(positions) > 1:
        _take(builder, data, output, axis, positions)
        return
    slot = builder.axis(data, axis)
    builder.pin_slot(slot, f"{builder.where} picks the position by its number", positions)


def pad(builder: AxisBuilder, node: ir.Node) -> None:
    """Padded positions cannot be removed, those between them can."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    rank = builder.rank(x)
    attribute = ints_attribute(node, "pads")
    pads = list(attribute) if attribute is not None else builder.constant_ints(node.inputs[1])
    if pads is None or len(pads) != 2 * rank:
        return
    for index in range(rank):
        before, after = pads[index], pads[index + rank]
        if not before and not after:
            builder.join(output, index, builder.axis(x, index))
            continue
        size = builder.dims(x)[index]
        if before < 0 or after < 0 or not isinstance(size, int):
            continue
        whole = builder.plain_slot(builder.new_output_axis(output, index))
        part = builder.plain(x, index)
        if whole is None:
            continue
        middle = np.arange(before, before + size)
        if part is not None and _is_constant_pad(node):
            builder.variables.tie(whole, middle, part, np.arange(size))
            middle = np.setdiff1d(np.arange(before + size + after), middle)
        else:
            builder.pin(x, index, f"{builder.where} copies positions")
            middle = np.arange(before + size + after)
        builder.variables.pin(whole, f"{builder.where} adds the position", middle)


def _is_constant_pad(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    return mode is None or mode.as_string() == "constant"


def _take(
    builder: AxisBuilder, x: ir.Value, output: ir.Value, index: int, positions: np.ndarray
) -> None:
    """Position i of the output's axis is position `positions[i]` of the input's."""
    whole = builder.plain(x, index)
    part = builder.plain_slot(builder.new_output_axis(output, index))
    if whole is None:
        return
    if part is None:
        builder.variables.pin(whole, f"{builder.where} picks a single position", positions)
    else:
        builder.variables.tie(whole, positions, part, np.arange(len(positions)))


def _others(builder: AxisBuilder, x: ir.Value, node: ir.Node, axis: int) -> None:
    for index in range(builder.rank(x)):
        if index != axis:
            for output in node.outputs:
                builder.join(output, index, builder.axis(x, index))

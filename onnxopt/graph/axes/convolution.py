"""Convolutions, dense, grouped, depthwise and transposed, and pooling.

In a grouped convolution a position can be removed in two ways: a whole group with the inputs and
outputs that belong to it, or the same place inside of every group. The finer of both is taken:
whole groups where there are at least as many as channels in each (depthwise, ResNeXt).
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.values import int_attribute


def conv(builder: AxisBuilder, node: ir.Node) -> None:
    """Input `[n, c, ..]`, weight `[o, c / group, ..]`, bias `[o]`."""
    x, weight, bias = _operands(node)
    group = int_attribute(node, "group", 1)
    output = node.outputs[0]
    builder.join(output, 0, builder.axis(x, 0))
    if group == 1:
        builder.link(x, 1, weight, 1)
        builder.contract(weight, 1)
    else:
        _grouped(builder, x, weight, group)
    builder.join(output, 1, builder.axis(weight, 0))
    if bias is not None:
        builder.link(weight, 0, bias, 0)


def _grouped(builder: AxisBuilder, x: ir.Value, weight: ir.Value, group: int) -> None:
    outputs, inputs = builder.dims(weight)[:2]
    if not (isinstance(outputs, int) and isinstance(inputs, int)):
        return
    per_group = outputs // group
    if inputs == 1 and per_group == 1:
        builder.link(x, 1, weight, 0)
    elif inputs <= group:
        groups = builder.variables.new(group)
        builder.tie_blocks(builder.axis(x, 1), groups, inner=inputs)
        builder.tie_blocks(builder.axis(weight, 0), groups, inner=per_group)
    else:
        within = builder.variables.new(inputs)
        builder.tie_blocks(builder.axis(x, 1), within, inner=1)
        builder.tie_blocks(builder.axis(weight, 1), within, inner=1)
        builder.contract(weight, 1)
        made = builder.variables.new(per_group)
        builder.tie_blocks(builder.axis(weight, 0), made, inner=1)


def conv_transpose(builder: AxisBuilder, node: ir.Node) -> None:
    """Input `[n, c, ..]`, weight `[c, o / group, ..]`, bias `[o]`; of groups only whole ones go."""
    x, weight, bias = _operands(node)
    group = int_attribute(node, "group", 1)
    output = node.outputs[0]
    builder.join(output, 0, builder.axis(x, 0))
    builder.link(x, 1, weight, 0)
    if group == 1:
        builder.contract(weight, 0)
        made = builder.axis(weight, 1)
    else:
        inputs, per_group = builder.dims(weight)[:2]
        made = builder.new_output_axis(output, 1)
        if isinstance(inputs, int) and isinstance(per_group, int):
            groups = builder.variables.new(group)
            builder.tie_blocks(builder.axis(weight, 0), groups, inner=inputs // group)
            builder.tie_blocks(made, groups, inner=per_group)
    builder.join(output, 1, made)
    if bias is not None:
        builder.unify(made, builder.axis(bias, 0))


def pool(builder: AxisBuilder, node: ir.Node) -> None:
    """Batch and channels stay; the window moves over the rest."""
    x = node.inputs[0]
    assert x is not None
    if len([value for value in node.outputs if value.name]) > 1:
        builder.pin_all(x, f"{builder.where} gives positions inside of its input")
        return
    for index in (0, 1):
        builder.join(node.outputs[0], index, builder.axis(x, index))


def resize(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes that keep their size; the target sizes must not fix the size of a channel axis."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    sizes = node.inputs[3] if node.op_type == "Resize" and len(node.inputs) > 3 else None
    if sizes is not None and "axes" not in node.attributes and builder.constant_ints(sizes) is None:
        return
    for index in (0, 1):
        if index < builder.rank(x) and builder.dims(x)[index] == builder.dims(output)[index]:
            builder.join(output, index, builder.axis(x, index))


def depth_to_space(builder: AxisBuilder, node: ir.Node) -> None:
    """Channels are `block * block * c` (DCR) or `c * block * block` (CRD)."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    block = int_attribute(node, "blocksize", 1)
    mode = node.attributes.get("mode")
    by_column = mode is not None and mode.as_string() == "CRD"
    builder.join(output, 0, builder.axis(x, 0))
    made = builder.plain_slot(builder.new_output_axis(output, 1))
    if made is None:
        builder.pin_all(x, f"{builder.where} leaves one channel")
        return
    builder.tie_blocks(builder.axis(x, 1), made, inner=block * block if by_column else 1)


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    x, weight = node.inputs[0], node.inputs[1]
    assert x is not None
    assert weight is not None
    return x, weight, node.inputs[2] if len(node.inputs) > 2 else None

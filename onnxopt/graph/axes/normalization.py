"""Normalizations, softmax and reductions.

Removing a channel of zeros from a mean changes the mean: such axes are marked "statistics". Sums
do not mind.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.axes.elementwise import broadcast
from onnxopt.graph.values import int_attribute, ints_attribute

_SUMS = frozenset(("ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"))


def batch_norm(builder: AxisBuilder, node: ir.Node) -> None:
    """Scale, bias, mean and variance go with the channel."""
    x, *parameters = [value for value in node.inputs if value is not None]
    _same(builder, x, node.outputs[0])
    for value in parameters:
        builder.link(x, 1, value, 0)
    builder.ignored.update((value, 0) for value in parameters[2:])


def layer_norm(builder: AxisBuilder, node: ir.Node) -> None:
    """All axes from `axis` on are normalized together; scale and bias broadcast over them."""
    x, *parameters = [value for value in node.inputs if value is not None]
    output = node.outputs[0]
    _same(builder, x, output)
    rank = builder.rank(x)
    for index in range(int_attribute(node, "axis", -1) % rank, rank):
        builder.mark(builder.axis(x, index), "statistics")
    broadcast(builder, parameters, output)


def skip_layer_norm(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft (Skip)(Simplified)LayerNormalization: inputs, then vectors of features."""
    present = [value for value in node.inputs if value is not None]
    output = node.outputs[0]
    broadcast(builder, present, output)
    builder.mark(builder.slots[output][-1], "statistics")
    for other in node.outputs[1:]:
        if other.name and builder.rank(other) == builder.rank(output):
            broadcast(builder, present[:2], other)


def instance_norm(builder: AxisBuilder, node: ir.Node) -> None:
    """Every channel on its own."""
    x, scale, bias = [value for value in node.inputs if value is not None]
    _same(builder, x, node.outputs[0], first=2)
    builder.link(x, 1, scale, 0)
    builder.link(x, 1, bias, 0)


def group_norm(builder: AxisBuilder, node: ir.Node) -> None:
    """Whole groups of channels; scale and bias are per channel, or per group before opset 21."""
    x, *parameters = [value for value in node.inputs if value is not None]
    count = node.attributes["num_groups"].as_int()
    channels = builder.dims(x)[1]
    _same(builder, x, node.outputs[0], first=2)
    if not isinstance(channels, int):
        return
    groups = builder.variables.new(count)
    builder.tie_blocks(builder.axis(x, 1), groups, inner=channels // count)
    for value in parameters:
        size = builder.dims(value)[0]
        inner = channels // count if size == channels else 1
        builder.tie_blocks(builder.axis(value, 0), groups, inner=inner)


def softmax(builder: AxisBuilder, node: ir.Node) -> None:
    """The axis that is normalized stays; before opset 13 all axes behind it do, too."""
    x = node.inputs[0]
    assert x is not None
    rank = builder.rank(x)
    modern = builder.inference.opset >= 13
    axis = int_attribute(node, "axis", -1 if modern else 1) % rank
    for index in range(rank):
        if index != axis and (modern or index < axis):
            builder.join(node.outputs[0], index, builder.axis(x, index))


def cumulative(builder: AxisBuilder, node: ir.Node) -> None:
    """CumSum and LpNormalization: every axis but one."""
    x = node.inputs[0]
    assert x is not None
    if node.op_type == "CumSum":
        axes = builder.constant_ints(node.inputs[1])
    else:
        axes = [int_attribute(node, "axis", -1)]
    rank = builder.rank(x)
    for index in range(rank):
        if axes is not None and index != axes[0] % rank:
            builder.join(node.outputs[0], index, builder.axis(x, index))


def reduce(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes that are left correspond; sums take any number of positions, means feel it."""
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    rank = builder.rank(x)
    axes = _reduced(builder, node, rank)
    if axes is None:
        return
    keep = int_attribute(node, "keepdims", 1)
    place = 0
    for index in range(rank):
        if index not in axes:
            builder.join(output, place, builder.axis(x, index))
        elif node.op_type in _SUMS:
            builder.axis(x, index)
        elif node.op_type == "ReduceMean":
            builder.mark(builder.axis(x, index), "statistics")
        place += bool(keep) or index not in axes


def _reduced(builder: AxisBuilder, node: ir.Node, rank: int) -> set[int] | None:
    if node.op_type in ("ArgMax", "ArgMin"):
        return {int_attribute(node, "axis", 0) % rank}
    given: list[int] | tuple[int, ...] | None = ints_attribute(node, "axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        given = builder.constant_ints(node.inputs[1])
        if given is None:
            return None
    if not given:
        return set() if int_attribute(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in given}


def _same(builder: AxisBuilder, x: ir.Value, output: ir.Value, first: int | None = None) -> None:
    for index in range(builder.rank(x) if first is None else first):
        builder.join(output, index, builder.axis(x, index))

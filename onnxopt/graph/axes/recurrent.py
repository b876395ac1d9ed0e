"""LSTM, GRU and RNN: a hidden unit is a row of every gate and a column of the recurrence."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.values import int_attribute


def recurrent(builder: AxisBuilder, node: ir.Node) -> None:
    """Input `[length, batch, in]`, W `[.., gates * hidden, in]`, R `[.., gates * hidden, h]`."""
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    x, weight, recurrence, bias = inputs[:4]
    assert x is not None
    assert weight is not None
    assert recurrence is not None
    builder.link(x, 2, weight, 2)
    builder.contract(weight, 2)
    hidden = builder.plain(recurrence, 2)
    builder.contract(recurrence, 2)
    batch_first = int_attribute(node, "layout", 0)
    if hidden is None:
        return
    builder.tie_blocks(builder.axis(weight, 1), hidden, inner=1)
    builder.tie_blocks(builder.axis(recurrence, 1), hidden, inner=1)
    if bias is not None:
        builder.tie_blocks(builder.axis(bias, 1), hidden, inner=1)
    state = builder.axis(recurrence, 2)
    for value in inputs[5:7]:
        if value is not None:
            builder.unify(state, builder.axis(value, 2))
    peephole = inputs[7]
    if peephole is not None:
        builder.tie_blocks(builder.axis(peephole, 1), hidden, inner=1)
    for index, output in enumerate(node.outputs):
        if output.name:
            builder.join(output, 3 if index == 0 else 2, state)
    if node.outputs[0].name and not batch_first:
        builder.join(node.outputs[0], 0, builder.axis(x, 0))
        builder.join(node.outputs[0], 2, builder.axis(x, 1))

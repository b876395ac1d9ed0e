"""`trace_axes`: one walk over the main graph that ties the axes of all its values.

What subgraphs and functions read is pinned: their nodes are not followed. So are graph inputs and
outputs, whose shapes are a contract, unless their names are given.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxopt.core.walking import all_nodes, subgraphs_of
from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.axes.registry import RULES
from onnxopt.graph.inference import Inference, infer_model


def trace_axes(
    model: ir.Model,
    *,
    changeable: Collection[str] = (),
    free_rows: Collection[str] = (),
    inference: Inference | None = None,
) -> AxisBuilder:
    """Relates all axes of a model; costs one rule a node.

    Args:
        model: In topological order. Types and shapes are written on its values.
        changeable: Graph inputs and outputs whose static axes may become shorter.
        free_rows: Names of tables of Gather whose rows may go; the caller renumbers the indices.
        inference: What is known of its values, if that is known already.
    """
    builder = AxisBuilder(model, inference or infer_model(model), free_rows)
    graph = model.graph
    for value in graph.inputs:
        if value.name not in changeable:
            builder.pin_all(value, f"graph input {value.name!r} keeps its shape")
    for node in graph:
        _visit(builder, node)
    for value in graph.outputs:
        if value.name not in changeable:
            builder.pin_all(value, f"graph output {value.name!r} keeps its shape")
    return builder


def _visit(builder: AxisBuilder, node: ir.Node) -> None:
    builder.node = node
    builder.open_outputs(node)
    bodies = subgraphs_of(node)
    if bodies:
        reason = f"{builder.where} has a body, which is not followed"
        own = {inner for body in bodies for inner in all_nodes(body)}
        for inner in own:
            for value in inner.inputs:
                producer = None if value is None else value.producer()
                if value is not None and producer not in own and value.graph is builder.model.graph:
                    builder.pin_all(value, reason)
        # A body may also hand a value of the graph around it straight on.
        for body in bodies:
            for value in body.outputs:
                if value.graph is builder.model.graph:
                    builder.pin_all(value, reason)
        _pin_node(builder, node, reason)
    elif (rule := RULES.get((node.domain, node.op_type))) is None:
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        _pin_node(builder, node, f"{builder.where}: no axes are followed through {kind}")
    elif not _is_known(builder, node):
        _pin_node(builder, node, f"{builder.where}: a shape is not known")
    else:
        rule(builder, node)
    builder.close_outputs(node)


def _is_known(builder: AxisBuilder, node: ir.Node) -> bool:
    values = [*node.inputs, *(value for value in node.outputs if value.name)]
    return all(value is None or builder.inference.dims(value) is not None for value in values)


def _pin_node(builder: AxisBuilder, node: ir.Node, reason: str) -> None:
    for value in node.inputs:
        if value is not None:
            builder.pin_all(value, reason)
    for value in node.outputs:
        for index, _ in enumerate(builder.inference.dims(value) or ()):
            builder.pin_slot(builder.new_output_axis(value, index), reason)

"""Outputs that differ from run to run because an operator draws random numbers."""

from __future__ import annotations

import onnx_ir as ir

_RANDOM = frozenset(
    {
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"),
        *("Multinomial", "Bernoulli"),
    }
)


def random_outputs(model: ir.Model) -> dict[str, str]:
    """Output name to the random node it depends on, as text.

    Operators with a seed of their own are not random: ONNX Runtime repeats their numbers.
    """
    reached: dict[ir.Value, str] = {}
    for node in model.graph:
        cause = _cause(node, model)
        if cause is None:
            used = [value for value in _used(node) if value in reached]
            cause = reached[used[0]] if used else None
        if cause is not None:
            reached.update(dict.fromkeys(node.outputs, cause))
    return {
        output.name: reached[output]
        for output in model.graph.outputs
        if output.name is not None and output in reached
    }


def _cause(node: ir.Node, model: ir.Model) -> str | None:
    """The node, or one in its subgraphs or function, if it is random."""
    if _is_random(node):
        return f"{node.name or node.outputs[0].name} ({node.op_type})"
    function = model.functions.get(node.op_identifier())
    inner = [inner for graph in _subgraphs(node) for inner in graph]
    inner += list(function) if function is not None else []
    return next((cause for one in inner if (cause := _cause(one, model))), None)


def _is_random(node: ir.Node) -> bool:
    if node.op_type in _RANDOM:
        return "seed" not in node.attributes
    if node.op_type != "Dropout" or "seed" in node.attributes or len(node.inputs) < 3:
        return False
    training = node.inputs[2]
    tensor = None if training is None else ir.convenience.get_const_tensor(training)
    return tensor is not None and bool(tensor.numpy().reshape(-1)[0])


def _used(node: ir.Node) -> list[ir.Value]:
    """Inputs, and what subgraphs capture."""
    used = [value for value in node.inputs if value is not None]
    for graph in _subgraphs(node):
        for inner in graph:
            used += _used(inner)
    return used


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.as_graphs()
    return graphs

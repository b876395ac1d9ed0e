"""What became of the nodes that could have been quantized, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.graph.integer_kernels import INTEGER_OPERATORS, WITHOUT_KERNEL
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.report import NodeEntry
from onnxopt.quantizing.tried import Tried

QUANTIZED, ALREADY = "quantized", "quantized already"
_EXPECTED = frozenset(("Conv", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "ConvTranspose"))
# Nodes that only convert between integers and floats compute nothing.
_CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


def count_quantized(model: ir.Model) -> int:
    """Number of nodes that work on integers, or convert to and from them."""
    nodes = (node for graph in all_graphs(model) for node in graph)
    return sum(node.op_type in INTEGER_OPERATORS for node in nodes)


def node_entries(
    model: ir.Model,
    options: QuantizeOptions,
    has_ranges: bool,
    tried: Tried | None,
    losses: Mapping[str, float] = {},
) -> list[NodeEntry]:
    """One entry for each node that could have been quantized, or is.

    Args:
        model: The float model.
        options: What the user asks for.
        has_ranges: True if static forms were possible.
        tried: The form that they are told for; None if none was possible.
        losses: Share of the budget of error by node, where it was measured.
    """
    reasons = {} if tried is None else {one.node: one.reason for one in tried.refusals}
    handled = frozenset() if tried is None else tried.form.op_types(options)
    taken: set[str] = set()
    if tried is not None and tried.model is not None and tried.verdict == "chosen":
        taken = _taken(model, tried.model)
    excluded = () if tried is None else tried.excluded
    entries = []
    for node in _candidates(model, taken):
        name = node.name or ""
        if _is_quantized(node):
            state = ALREADY
        elif name in excluded:
            state = "too sensitive: in float to meet the budget of error"
        elif name in taken:
            state = QUANTIZED
        elif name in reasons:
            state = reasons[name]
        elif node.op_type not in handled:
            state = _unhandled(node.op_type, options, has_ranges=has_ranges)
        else:
            state = "float: no form was proven faster within the budget of error"
        entries.append(NodeEntry(name, node.op_type, state, losses.get(name)))
    return entries


def _unhandled(op_type: str, options: QuantizeOptions, *, has_ranges: bool) -> str:
    """Why a form does not try to quantize an operator."""
    if op_type in WITHOUT_KERNEL:
        return WITHOUT_KERNEL[op_type]
    if op_type == "Conv" and options.mode != "dynamic" and not has_ranges:
        return "its ranges are not known: --calibration DATA"
    if op_type == "Conv":
        return "its dynamic form, ConvInteger, is slower than float"
    return f"it has no {options.mode} form on {options.target.provider}"


def _candidates(model: ir.Model, taken: set[str]) -> Iterator[ir.Node]:
    for graph in all_graphs(model):
        for node in graph:
            is_integer = node.op_type in INTEGER_OPERATORS - _CONVERSIONS
            is_expected = not node.domain and (node.op_type in _EXPECTED or node.name in taken)
            if is_integer or is_expected:
                yield node


def _is_quantized(node: ir.Node) -> bool:
    """True for an operator on integers, and for one between DequantizeLinear nodes."""
    if node.op_type in INTEGER_OPERATORS:
        return True
    first = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return first is not None and first.op_type == "DequantizeLinear"


def _taken(before: ir.Model, after: ir.Model) -> set[str]:
    """Names of nodes of a model that are replaced or read integers in a quantized copy."""
    left = {node.name: node for graph in all_graphs(after) for node in graph}
    found = set()
    for graph in all_graphs(before):
        for node in graph:
            now = left.get(node.name)
            if now is None or (_is_quantized(now) and not _is_quantized(node)):
                found.add(node.name or "")
    return found

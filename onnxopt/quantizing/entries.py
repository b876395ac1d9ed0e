"""What became of the nodes that could have been quantized, and why."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.quantizing.forms import refusals_of
from onnxopt.quantizing.report import NodeEntry
from onnxopt.quantizing.search import Search
from onnxopt.quantizing.tried import Tried


def node_entries(
    model: ir.Model, one: Tried | None, search: Search, chosen: Tried | None
) -> list[NodeEntry]:
    """One entry for each node that could have been quantized.

    Args:
        model: The float model.
        one: The form that they are told for.
        search: What was measured.
        chosen: The form that was chosen; None if float was.
    """
    if one is None:
        return []
    reasons = {refusal.node: refusal.reason for refusal in refusals_of(one.results)}
    types = {op for result in one.results for op in result.rewrites} | {
        *("Conv", "MatMul", "Gemm", "LSTM", "GRU", "ConvTranspose")
    }
    entries = []
    for node in model.graph:
        name = node.name or ""
        if node.op_type not in types or node.domain:
            continue
        state = reasons.get(name, "quantized" if chosen is not None else "float: nothing paid")
        if name in one.excluded:
            state = "too sensitive: in float to meet the budget of error"
        entries.append(NodeEntry(name, node.op_type, state, search.losses.get(name)))
    return entries

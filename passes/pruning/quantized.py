"""Is a model quantized already? Then its scales belong to the channels that it has."""

from __future__ import annotations

import onnx_ir as ir

_QUANTIZED = frozenset(
    (
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulNBits",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    )
)


def quantized_node(model: ir.Model) -> str | None:
    """The name of the first node that works on quantized values; None if there is none."""
    for node in model.graph:
        if node.op_type in _QUANTIZED:
            return node.name or node.op_type
    return None

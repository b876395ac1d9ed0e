"""What `optimize` says of a model before and after: its size, and operators nobody knows."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.pipeline import count_nodes
from onnxopt.core.report import ModelSize
from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.known_operators import unknown_operators


def size_of(model: ir.Model) -> ModelSize:
    """Nodes in all graphs, and bytes of weights."""
    return ModelSize(nodes=count_nodes(model), weight_bytes=weight_bytes(model))


def operator_notes(model: ir.Model) -> list[str]:
    """A sentence for each operator without a schema."""
    return [
        f"operator {name} is not known here, left as it is ({count} x)"
        for name, count in unknown_operators(model).items()
    ]

"""Every tensor of a model, wherever it is kept."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.core.walking import all_bodies


def all_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Initializers and attributes of all graphs and functions; shared ones as often as used."""
    for graph in all_bodies(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()

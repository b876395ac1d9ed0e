"""Replaces tensors in the attributes of nodes."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir


def map_attributes(
    node: ir.Node, function: Callable[[ir.TensorProtocol], ir.TensorProtocol]
) -> None:
    """Replaces each tensor attribute of the node by what `function` makes of it.

    Attributes for which it returns the same tensor stay as they are; subgraphs are not entered.
    """
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            old = attribute.as_tensor()
            new = function(old)
            if new is not old:
                node.attributes[name] = ir.AttrTensor(name, new, attribute.doc_string)
        elif attribute.type == ir.AttributeType.TENSORS:
            tensors = attribute.as_tensors()
            changed = [function(tensor) for tensor in tensors]
            if any(new is not old for new, old in zip(changed, tensors, strict=True)):
                node.attributes[name] = ir.AttrTensors(name, changed, attribute.doc_string)

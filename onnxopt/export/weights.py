"""Weights of an exported model: the memory of the PyTorch module itself, each stored once."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxopt.export.exporters import ExportFailedError
from onnxopt.export.parts import Part


def bind_weights(model: ir.Model, part: Part) -> None:
    """Makes initializers of the graph inputs that are parameters or buffers of the module.

    Raises:
        ExportFailedError: An input is neither one of the part nor a weight.
    """
    from onnx_ir.tensor_adapters import TorchTensor

    weights = dict(part.module.named_parameters(remove_duplicate=False))
    weights |= dict(part.module.named_buffers(remove_duplicate=False))
    names = {one.name for one in part.inputs}
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in names:
            continue
        weight = weights.get(str(value.name))
        if weight is None:
            raise ExportFailedError(f"the graph has an input {value.name!r} that is no weight")
        graph.inputs.remove(value)
        value.const_value = TorchTensor(weight.detach(), name=value.name)
        graph.register_initializer(value)
    left = names - {value.name for value in graph.inputs}
    if left:
        raise ExportFailedError(f"the graph lost its input {min(left)!r}: nothing depends on it")


def tie_weights(model: ir.Model) -> None:
    """Stores weights that share their memory in the module, as tied embeddings, only once."""
    kept: dict[object, ir.Value] = {}
    initializers = model.graph.initializers
    outputs = set(model.graph.outputs)
    for name, value in list(initializers.items()):
        place = _place(value.const_value)
        if place is None or value in outputs:
            continue
        first = kept.setdefault(place, value)
        if first is not value:
            ir.convenience.replace_all_uses_with(value, first)
            del initializers[name]


def _place(tensor: Any) -> object | None:
    """Where a tensor's data is, if it is one of PyTorch's."""
    raw = getattr(tensor, "raw", None)
    if raw is None or not hasattr(raw, "data_ptr") or raw.numel() == 0:
        return None
    return raw.data_ptr(), tuple(raw.shape), tuple(raw.stride()), str(raw.dtype)

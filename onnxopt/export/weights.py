"""Weights of an exported model: the memory of the PyTorch module itself, each stored once.

    Transpose(w)  =>  w, which is written in the other order

Exporters write a linear layer as MatMul(x, Transpose(w)). Left so, whoever loads the model makes a
second copy of the weight, ONNX Runtime in every run if its optimizations are off.
"""

from __future__ import annotations

from collections.abc import Collection
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


def transpose_weights(model: ir.Model) -> None:
    """Folds Transposes of weights: as views of the module's memory, so that nothing is copied.

    Weights that something else reads as well, as tied embeddings, stay: they would be stored twice.
    """
    from onnx_ir.tensor_adapters import TorchTensor

    outputs = set(model.graph.outputs)
    for name, value in model.graph.initializers.items():
        nodes = [use.node for use in value.uses()]
        orders = {_order(node) for node in nodes}
        order = next(iter(orders), None)
        results = [node.outputs[0] for node in nodes]
        if len(orders) != 1 or order is None or value in outputs or outputs & set(results):
            continue
        if _place(value.const_value) is None:
            continue
        raw: Any = value.const_value.raw  # type: ignore[union-attr]
        value.const_value = TorchTensor(raw.detach().permute(order), name=name)
        value.shape = ir.Shape(value.const_value.shape)
        for node, result in zip(nodes, results, strict=True):
            ir.convenience.replace_all_uses_with(result, value)
            assert node.graph is not None
            node.graph.remove(node, safe=True)


def weights_in(model: ir.Model, module: Any, names: Collection[str]) -> list[str]:
    """Which of a module's weights are in a model.

    Args:
        model: The model. If none of its weights is memory of PyTorch's, all are taken to be in it.
        module: The module.
        names: Names in the module.
    """
    raws: list[Any] = [getattr(v.const_value, "raw", 0) for v in model.graph.initializers.values()]
    places = {raw.data_ptr() for raw in raws if hasattr(raw, "data_ptr")}
    weights = dict(module.named_parameters(remove_duplicate=False))
    return [n for n in names if n in weights and (weights[n].data_ptr() in places or not places)]


def _order(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose."""
    perm = node.attributes.get("perm")
    if node.op_type != "Transpose" or node.domain or perm is None:
        return None
    return tuple(perm.as_ints())


def _place(tensor: Any) -> object | None:
    """Where a tensor's data is, if it is one of PyTorch's."""
    raw = getattr(tensor, "raw", None)
    if raw is None or not hasattr(raw, "data_ptr") or raw.numel() == 0:
        return None
    return raw.data_ptr(), tuple(raw.shape), tuple(raw.stride()), str(raw.dtype)

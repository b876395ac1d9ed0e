"""An ONNX graph as a PyTorch module, whose weights train and are written back into the graph.

Nodes of the main graph run one after the other on tensors; a value is dropped after its last use.
Trained are the weights and biases of Conv, Gemm, MatMul and normalizations, tables of embeddings if
asked for, and integer weights behind DequantizeLinear as floats that are rounded in every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.walking import subgraphs_of
from onnxopt.graph.linear_maps import linear_maps
from onnxopt.graph.values import opset_version
from onnxopt.recovering.computing import COMPUTING, round_through
from onnxopt.recovering.moving import MOVING
from onnxopt.recovering.node import Node, Operator, UnsupportedFormError
from onnxopt.runtime.library import one_line

_DOMAINS = ("", "com.microsoft")
_OPERATORS: Mapping[str, Operator] = {**COMPUTING, **MOVING}
_WEIGHTED = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), (1, 2)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), (1, 2)),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), (1,)),
}


class GraphModule(nn.Module):
    """The main graph of a model.

    Args:
        model: Left as it is.
        train_embeddings: Train the tables of Gather, too.

    Raises:
        InvalidInputError: A node has no counterpart here; all kinds that lack one are named.
    """

    def __init__(self, model: ir.Model, *, train_embeddings: bool = False) -> None:
        super().__init__()
        self._graph = model.graph
        missing = sorted({_kind(node) for node in model.graph if not _is_known(node)})
        if missing:
            raise InvalidInputError(
                f"the model cannot be trained: no PyTorch counterpart of {', '.join(missing)}"
            )
        trained = _trained(model, train_embeddings=train_embeddings)
        self._names: dict[str, str] = {}
        self._limits: dict[str, torch.iinfo] = {}  # of the integers that train
        self._constants: dict[str, Tensor] = {}
        for name, value in model.graph.initializers.items():
            assert value.const_value is not None
            tensor = _tensor(value.const_value.numpy(), name)
            if value in trained:
                key = f"weight{len(self._names)}"
                self._names[name] = key
                if not tensor.is_floating_point():
                    self._limits[name] = torch.iinfo(tensor.dtype)
                self.register_parameter(key, nn.Parameter(tensor.float()))
            else:
                self._constants[name] = tensor
        self._nodes = [(node, _node(node, model)) for node in model.graph]
        self._last = {v: place for place, (n, _) in enumerate(self._nodes) for v in n.inputs}

    def forward(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Outputs by name.

        Raises:
            InvalidInputError: A node is of a form that is not known; it is named.
        """
        known: dict[ir.Value, Tensor] = {}
        for value in self._graph.inputs:
            name = value.name or ""
            if name in feeds:
                known[value] = _tensor(np.asarray(feeds[name]), name)
        kept = set(self._graph.outputs)
        for place, (node, told) in enumerate(self._nodes):
            inputs = [None if v is None else self._read(v, known) for v in node.inputs]
            try:
                results = _OPERATORS[node.op_type](told, inputs)
            except (
                UnsupportedFormError,
                IndexError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                # PyTorch says so in its own ways where it lacks a form.
                raise InvalidInputError(
                    f"the model cannot be trained: {_kind(node)} {node.name!r}: {one_line(error)}"
                ) from error
            for value in node.outputs[len(results) :]:
                if value.uses() or value.is_graph_output():
                    raise InvalidInputError(
                        f"the model cannot be trained: {_kind(node)} {node.name!r}: output "
                        f"{value.name!r} has no PyTorch counterpart"
                    )
            known.update(zip(node.outputs, results, strict=False))
            for used in node.inputs:
                if used is not None and self._last[used] == place and used not in kept:
                    known.pop(used, None)
        return {value.name or "": self._read(value, known) for value in self._graph.outputs}

    def _read(self, value: ir.Value, known: Mapping[ir.Value, Tensor]) -> Tensor:
        if value in known:
            return known[value]
        name = value.name or ""
        if name in self._names:
            found: Tensor = getattr(self, self._names[name])
            limits = self._limits.get(name)
            if limits is None:
                return found
            # Integers train as floats that are rounded in every run, as they will be written.
            return torch.clamp(round_through(found), limits.min, limits.max)
        return self._constants[name]

    def weights(self) -> dict[str, nn.Parameter]:
        """What trains, by the name of the initializer."""
        return {name: getattr(self, key) for name, key in self._names.items()}

    def write_back(self, model: ir.Model) -> None:
        """Puts the trained weights into a model with the same initializers, in their types."""
        for name, key in self._names.items():
            value = model.graph.initializers[name]
            old = value.const_value
            assert old is not None
            array = getattr(self, key).detach().numpy()
            if old.dtype.is_integer():
                limits = np.iinfo(old.dtype.numpy())
                array = np.clip(np.rint(array), limits.min, limits.max)
            new = np.array(array, old.dtype.numpy(), order="C")
            value.const_value = ir.Tensor(new, dtype=old.dtype, name=name)


def _is_known(node: ir.Node) -> bool:
    return node.domain in _DOMAINS and node.op_type in _OPERATORS and not subgraphs_of(node)


def _kind(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _tensor(array: NDArray[Any], name: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise InvalidInputError(
            f"the model cannot be trained: {name!r} is of type {array.dtype}, which has no PyTorch "
            "counterpart"
        ) from error


def _node(node: ir.Node, model: ir.Model) -> Node:
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        attributes[name] = attribute.value
    return Node(node.op_type, attributes, opset_version(node, model), len(node.outputs))


def _trained(model: ir.Model, *, train_embeddings: bool) -> set[ir.Value]:
    """Initializers that are weights: what reads them decides."""
    found: set[ir.Value] = set()
    for node in model.graph:
        places = _WEIGHTED.get(node.op_type, ())
        if node.op_type == "Gather" and train_embeddings:
            places = (0,)
        for place in places:
            value = node.inputs[place] if place < len(node.inputs) else None
            producer = None if value is None else value.producer()
            if producer is not None and producer.op_type == "DequantizeLinear":
                value = producer.inputs[0]
            if _is_weight(value):
                assert value is not None
                found.add(value)
    for site in linear_maps(model):
        if site.bias is not None and _is_weight(site.bias):
            found.add(site.bias)
    return found


def _is_weight(value: ir.Value | None) -> bool:
    if value is None or value.const_value is None or not value.is_initializer():
        return False
    kind = value.const_value.dtype
    return kind in (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8)

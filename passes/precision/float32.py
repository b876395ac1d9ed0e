"""Raises a float16 model to float32, which CPUs compute faster and other passes expect.

    Conv_fp16(x, w)      ->  Cast_fp16(Conv_fp32(Cast_fp32(x), w))
    Cast(x, to=float16)  ->  Cast(x, to=float32)

Every float16 value becomes float32, in subgraphs as well: initializers and constants hold the same
numbers, types named in attributes follow. Inputs and outputs of the model keep their type; a cast
stands beside each. What overflowed in float16 no longer does. Nothing is done to a model with
sequences or optionals of float16 or with functions (inline them first), which is said.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_RULE = "float32"
# Attributes that name the type of an output.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertToFloat32(Pass):
    """Raises float16 values to float32; inputs and outputs keep their types."""

    name: ClassVar[str] = "convert-to-float32"
    claims_speed: ClassVar[bool] = False

    def call(self, model: ir.Model) -> PassResult:
        """Converts the main graph and its subgraphs."""
        if model.functions:
            return PassResult(
                model, refusals=[Refusal(_RULE, "", "the model has functions: inline them first")]
            )
        values = [value for graph in all_graphs(model) for value in _values(graph)]
        for value in values:
            is_tensor = value.type is None or isinstance(value.type, ir.TensorType)
            if not is_tensor and "FLOAT16" in str(value.type):
                reason = f"{value.name!r} is of type {value.type}"
                return PassResult(model, refusals=[Refusal(_RULE, value.name or "", reason)])
        rewrites: Counter[str] = Counter()
        everything = [node for graph in all_graphs(model) for node in graph]
        nodes = [node for node in everything if not _ends(model, node)]
        ends = {node.outputs[0] for node in everything if _ends(model, node)}
        _cast_ends(model, rewrites)
        for value in values:
            tensor = value.const_value
            if tensor is not None and tensor.dtype == _HALF:
                value.const_value = _single(tensor)
                rewrites["constant"] += 1
            if value.dtype == _HALF and value not in ends and not _is_fed(model, value):
                value.type = ir.TensorType(_SINGLE)  # copies of the model share the old one
        for node in nodes:
            rewrites["attribute"] += _attributes(node)
        return PassResult(model, rewrites)


def _values(graph: ir.Graph) -> list[ir.Value]:
    computed = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *computed]


def _is_fed(model: ir.Model, value: ir.Value) -> bool:
    is_input = value.is_graph_input() and value.graph is model.graph
    return is_input and not value.is_initializer()


def _ends(model: ir.Model, node: ir.Node) -> bool:
    """True for a Cast to float16 that only makes an output of the model."""
    if not _casts(node, _HALF):
        return False
    output = node.outputs[0]
    return output in model.graph.outputs and not output.uses()


def _casts(node: ir.Node, to: ir.DataType) -> bool:
    is_cast = node.op_type == "Cast" and not node.domain
    return is_cast and node.attributes["to"].as_int() == to.value


def _cast_ends(model: ir.Model, rewrites: Counter[str]) -> None:
    """Puts casts behind the inputs and in front of the outputs of the model."""
    graph, names = model.graph, Names(model)
    declared = {
        index: value
        for index, value in enumerate(graph.outputs)
        if value.dtype == _HALF
        and not value.is_graph_input()
        and not ((producer := value.producer()) is not None and _ends(model, producer))
    }
    for value in list(graph.inputs):
        uses = [use for use in value.uses() if not _casts(use.node, _SINGLE)]
        if value.dtype != _HALF or value.is_initializer() or not uses:
            continue
        node = ir.node("Cast", [value], {"to": _SINGLE.value}, name=names.unique_node("Cast"))
        made = node.outputs[0]
        made.name, made.type = names.unique(f"{value.name}_float32"), ir.TensorType(_SINGLE)
        made.shape = value.shape
        for user, index in uses:
            user.replace_input_with(index, made)
        graph.insert_before(graph[0], node) if len(graph) else graph.append(node)
        rewrites["cast"] += 1
    for index, value in declared.items():
        node = ir.node("Cast", [value], {"to": _HALF.value}, name=names.unique_node("Cast"))
        new = node.outputs[0]
        new.name, value.name = value.name, names.unique(f"{value.name}_float32")
        new.type, new.shape = ir.TensorType(_HALF), value.shape
        graph.append(node)
        graph.outputs[index] = new
        rewrites["cast"] += 1


def _single(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The numbers in float32, converted when they are needed."""

    def compute() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(compute, dtype=_SINGLE, shape=shape, name=tensor.name)


def _attributes(node: ir.Node) -> int:
    """Raises constants and names of types in attributes."""
    count = 0
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
            tensor = _single(attribute.as_tensor())
            node.attributes[name] = ir.AttrTensor(name, tensor)
        elif name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT:
            if attribute.as_int() != _HALF.value:
                continue
            node.attributes[name] = ir.AttrInt64(name, _SINGLE.value)
        else:
            continue
        count += 1
    return count

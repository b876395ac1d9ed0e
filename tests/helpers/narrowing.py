"""Models in fewer bits, made by hand: what converters make, without depending on one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph.inference import infer_model

_HALF = ir.DataType.FLOAT16


def to_float16(model: ir.Model) -> ir.Model:
    """A copy that computes in float16 between inputs and outputs in float."""
    model = model.clone()
    infer_model(model)
    graph = model.graph
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            with np.errstate(over="ignore"):
                value.const_value = ir.tensor(tensor.numpy().astype(np.float16), name=value.name)
            value.type = ir.TensorType(_HALF)
    for node in graph:
        _narrow(node)
    first = next(iter(graph))
    for value in graph.inputs:
        if value.dtype == ir.DataType.FLOAT:
            users = list(value.uses())
            half = _cast(value, _HALF, f"{value.name}_half")
            graph.insert_before(first, half)
            for user, index in users:
                user.replace_input_with(index, half.outputs[0])
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype == _HALF:
            name, value.name = value.name, f"{value.name}_half"
            back = _cast(value, ir.DataType.FLOAT, name or "")
            graph.append(back)
            graph.outputs[index] = back.outputs[0]
    return model


def _narrow(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == 1:
            with np.errstate(over="ignore"):
                array = attribute.value.numpy().astype(np.float16)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
    for value in node.outputs:
        value.const_value = None
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(_HALF)


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype}, name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(dtype), value.shape
    return node


def to_qdq(model: ir.Model, ranges: dict[str, float]) -> ir.Model:
    """A copy with uint8 Q/DQ pairs behind values, and int8 weights of MatMul.

    Args:
        model: Left as it is.
        ranges: Name of a value to the largest magnitude that its range covers.
    """
    model = model.clone()
    graph = model.graph
    values = {v.name: v for node in graph for v in node.outputs}
    for name, largest in ranges.items():
        value = values[name]
        users = list(value.uses())
        producer = value.producer()
        assert producer is not None
        scale = _weight(graph, f"{name}_scale", np.float32(2 * largest / 255))
        zero = _weight(graph, f"{name}_zero", np.uint8(128))
        quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_Q")
        quantize.outputs[0].name = f"{name}_quantized"
        back = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{name}_DQ")
        back.outputs[0].name = f"{name}_dequantized"
        graph.insert_after(producer, [quantize, back])
        for user, index in users:
            user.replace_input_with(index, back.outputs[0])
    for node in list(graph):
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type == "MatMul" and weight is not None and weight.is_initializer():
            _quantize_weight(graph, node)
    return model


def _quantize_weight(graph: ir.Graph, node: ir.Node) -> None:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    step = np.float32(np.abs(array).max() / 127)
    rounded = np.rint(array / step).astype(np.int8)
    inputs = [
        _weight(graph, f"{weight.name}_quantized", rounded),
        _weight(graph, f"{weight.name}_step", step),
    ]
    back = ir.node("DequantizeLinear", inputs, name=f"{weight.name}_DQ")
    back.outputs[0].name = f"{weight.name}_dequantized"
    graph.insert_before(node, back)
    node.replace_input_with(1, back.outputs[0])


def _weight(graph: ir.Graph, name: str, array: object) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(np.asarray(array), name=name))
    graph.register_initializer(value)
    return value

"""Dimensions that the graph fixes although the input does not declare them.

A MatMul with a constant weight needs its rows, a Conv its channels, a tree its features: an input
`[N, ?]` that feeds a 64-row Gemm runs with 64 columns only.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.runtime.inputs.consumers import Consumer, shape_keeping_consumers


def feature_sizes(value: ir.Value, model: ir.Model) -> dict[int, int]:
    """Axis of an input to the size that its consumers need.

    Args:
        value: A graph input of known rank.
        model: Its model.
    """
    rank = 0 if value.shape is None else len(value.shape)
    sizes: dict[int, int] = {}
    for consumer in shape_keeping_consumers(value, model):
        axis, size = _needed(consumer)
        if size is not None and -rank <= axis < rank:
            sizes.setdefault(axis % rank, size)
    return sizes


def _needed(consumer: Consumer) -> tuple[int, int | None]:
    node = consumer.node
    if consumer.position != 0:
        return 0, None
    match node.op_type:
        case "MatMul" | "FusedMatMul" | "DynamicQuantizeMatMul" | "MatMulInteger":
            return -1, _dim(node, 1, -2)
        case "Gemm":
            return 1, _dim(node, 1, 1 if _int(node, "transB", 0) else 0)
        case "Conv" | "ConvInteger":
            channels = _dim(node, 1, 1)
            return 1, None if channels is None else channels * _int(node, "group", 1)
        case "LSTM" | "GRU" | "RNN":
            return 2, _dim(node, 1, 2)
        case "BatchNormalization" | "InstanceNormalization":
            return 1, _dim(node, 1, 0)
        case "LayerNormalization":
            return -1, _dim(node, 1, -1)
        case "Scaler":
            # One number may stand for all features.
            attribute = node.attributes.get("scale")
            count = 0 if attribute is None else len(attribute.as_floats())
            return -1, count if count > 1 else None
        case "TreeEnsembleClassifier" | "TreeEnsembleRegressor":
            attribute = node.attributes.get("nodes_featureids")
            # At least so many: the last features may not occur in any tree.
            return -1, None if attribute is None else max(attribute.as_ints(), default=0) + 1
        case "LinearClassifier" | "LinearRegressor":
            return -1, _coefficients(node)
    return 0, None


def _coefficients(node: ir.Node) -> int | None:
    coefficients = node.attributes.get("coefficients")
    if coefficients is None:
        return None
    intercepts = node.attributes.get("intercepts")
    targets = _int(node, "targets", 1) if node.op_type == "LinearRegressor" else 1
    if intercepts is not None:
        targets = max(targets, len(intercepts.as_floats()))
    return len(coefficients.as_floats()) // max(targets, 1)


def _dim(node: ir.Node, position: int, axis: int) -> int | None:
    weight = node.inputs[position] if position < len(node.inputs) else None
    if weight is None or weight.const_value is None:
        return None
    shape = tuple(weight.const_value.shape)
    if not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) else None


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()

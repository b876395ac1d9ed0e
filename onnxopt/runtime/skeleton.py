"""A model's structure as bytes, with its large weights beside it instead of inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.serializing import Record, split_model
from onnxopt.graph.skeleton import GRAPH_INITIALIZER, MODEL_GRAPH
from onnxopt.graph.wire import length_delimited

# Smaller ones may be shapes and axes, which ONNX Runtime reads while it infers shapes.
_SMALLEST_BYTES = 4096
# Types of whole bytes that NumPy and ONNX Runtime's bindings agree on; others stay inside.
_SHARED_TYPES = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)

Weights = dict[str, tuple[NDArray[Any], int]]


def serialize_skeleton(model: ir.Model) -> tuple[bytes, Weights]:
    """Serializes a model without the large initializers of its main graph.

    Args:
        model: Left as it is.

    Returns:
        The bytes, in which the large weights are marked as external, and these weights: name to
        array and ONNX element type. Arrays are views of the model's memory where it has any.

    Raises:
        SaveError: The model cannot be serialized.
    """
    parts = split_model(model)
    unused = _unused(model)
    weights: Weights = {}
    fields = [parts.graph]
    for record in parts.records:
        tensor = record.tensor
        if record.proto.name in unused:
            continue
        if tensor is None:
            fields.append(record.head())
        elif record.nbytes < _SMALLEST_BYTES or tensor.dtype not in _SHARED_TYPES:
            record.proto.raw_data = tensor.tobytes()
            fields.append(Record(record.proto).head())
        else:
            weights[record.proto.name] = _shared(tensor)
            fields.append(_placeholder(record))
    length = sum(map(len, fields))
    return b"".join([parts.head, length_delimited(MODEL_GRAPH, length), *fields]), weights


def _unused(model: ir.Model) -> set[str]:
    """Names of initializers that ONNX Runtime drops, and then misses when they are handed over."""
    return {
        name
        for name, value in model.graph.initializers.items()
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    }


def _shared(tensor: ir.TensorProtocol) -> tuple[NDArray[Any], int]:
    array = np.ascontiguousarray(tensor.numpy())
    if tensor.dtype == ir.DataType.BFLOAT16:
        array = array.view(np.uint16)
    return array, tensor.dtype.value


def _placeholder(record: Record) -> bytes:
    proto = record.proto
    proto.data_location = onnx.TensorProto.EXTERNAL
    # A name only: no such file is ever opened, since the weight is handed over in memory.
    proto.external_data.add(key="location", value="weights")
    proto.external_data.add(key="offset", value="0")
    proto.external_data.add(key="length", value=str(record.nbytes))
    body: bytes = proto.SerializeToString()
    return length_delimited(GRAPH_INITIALIZER, len(body)) + body

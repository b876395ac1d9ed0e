"""A model's structure as bytes, with its large weights beside it instead of inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Smaller ones may be shapes and axes, which ONNX Runtime reads while it infers shapes.
_SMALLEST_BYTES = 4096
# Types of whole bytes; sub-byte types and strings stay inside.
_BYTES_TYPES = frozenset(
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
        ValueError: What is left is over protobuf's limit of 2 GB.
    """
    skeleton = model.clone()
    weights: Weights = {}
    for name, value in skeleton.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _SMALLEST_BYTES or tensor.dtype not in _BYTES_TYPES:
            continue
        array = np.ascontiguousarray(tensor.numpy())
        if array.dtype.kind == "V":
            array = array.view(np.uint16)
        weights[name] = array, tensor.dtype.value
        # Only a name in the bytes: this file is never opened.
        value.const_value = ir.ExternalTensor(
            "weights", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
        )
    return ir.to_proto(skeleton).SerializeToString(), weights

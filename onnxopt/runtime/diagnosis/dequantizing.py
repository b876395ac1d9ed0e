"""What a value is without the fewer bits that it passes through, and the numbers of a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import constant, int_attribute
from onnxopt.runtime.parity.conversion import CONVERSIONS


def source_of(value: ir.Value) -> ir.Value:
    """The value before QuantizeLinear, DequantizeLinear and Cast."""
    producer = value.producer()
    while producer is not None and producer.op_type in CONVERSIONS:
        source = producer.inputs[0]
        if source is None:
            break
        value, producer = source, source.producer()
    return value


def weight_of(value: ir.Value) -> NDArray[Any] | None:
    """The numbers of a weight, also of one behind DequantizeLinear or Cast; None if it is none."""
    array = constant(value)
    producer = value.producer()
    if array is not None or producer is None or producer.inputs[:1] in ([], (None,), [None]):
        return array
    source = producer.inputs[0]
    assert source is not None
    if producer.op_type == "Cast":
        return weight_of(source)
    array = constant(source)
    if producer.op_type != "DequantizeLinear" or array is None or array.dtype.kind not in "iu":
        return None
    scale = constant(producer.inputs[1])
    zero = constant(producer.inputs[2]) if len(producer.inputs) > 2 else None
    if scale is None or int_attribute(producer, "block_size", 0):
        return None
    shape = [1] * array.ndim
    if scale.size > 1:
        axis = int_attribute(producer, "axis", 1)
        if not -array.ndim <= axis < array.ndim:
            return None
        shape[axis] = scale.size
    offset = 0 if zero is None else zero.astype(np.int64).reshape(shape if zero.size > 1 else ())
    widened = array.astype(np.float32) - offset
    numbers: NDArray[Any] = (widened * scale.reshape(shape if scale.size > 1 else ())).astype(
        np.float32
    )
    return numbers

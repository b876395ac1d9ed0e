"""Which recurrent layers ONNX Runtime's DynamicQuantizeLSTM can stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.quantization import is_finite
from onnxopt.graph.values import constant, int_attribute

# Quantizing the activation costs more than so small a product wins.
SMALLEST_WEIGHT = 4096
_ACTIVATIONS = ("Sigmoid", "Tanh")


def lstm_refusal(node: ir.Node) -> str | None:
    """Why an LSTM cannot be quantized; None if it can."""
    arrays: list[NDArray[np.float32] | None] = [constant(node.inputs[index]) for index in (1, 2)]
    if any(array is None for array in arrays):
        return "its weights are computed"
    if any(array is not None and array.dtype != np.float32 for array in arrays):
        return "its weights are not float32"
    for value, array in zip(node.inputs[1:3], arrays, strict=True):
        if array is not None and value is not None and not is_finite(array):
            return f"{value.name!r} holds NaN or infinity"
    if arrays[0] is not None and arrays[0].size < SMALLEST_WEIGHT:
        return f"a weight of {arrays[0].size} numbers is too small to pay"
    if int_attribute(node, "layout", 0):
        return "the integer LSTM takes sequences first only"
    activations = node.attributes.get("activations")
    if activations is not None:
        names = tuple(activations.as_strings())
        if any(name not in _ACTIVATIONS for name in names):
            return f"the integer LSTM has not the activations {', '.join(names)}"
    return None

"""Which operators ONNX Runtime's CPU provider computes on 8-bit integers, and what part they play.

An anchor is where time is won: products of weights and activations. A join (Add, Mul, pooling) has
an integer kernel of its own that wins nothing by itself, but keeps the values between anchors
integer. A copy only moves values. From ONNX Runtime's QDQ selectors
(core/optimizer/qdq_transformer/selectors_actions); `benchmarks/int8_real_models.py`
measures whole models.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from onnxopt.graph.values import constant, dims, int_attribute

Part = Literal["anchor", "join", "copy"]

# Computed by the kernels of Add and Mul, if a range that begins at zero clips for them.
HARD_ACTIVATIONS = ("HardSigmoid", "HardSwish")

_PARTS: dict[str, Part] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), "anchor"),
    **dict.fromkeys(("Add", "Mul", "Sigmoid", "LeakyRelu"), "join"),
    **dict.fromkeys(HARD_ACTIVATIONS, "join"),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "Concat"), "join"),
    **dict.fromkeys(("MaxPool", "Reshape", "Transpose", "Flatten"), "copy"),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Slice", "Gather", "Resize"), "copy"),
}
# Fewer input channels in a group leave the integer kernels without enough to multiply at once.
_FEWEST_CHANNELS = 16

# What a quantized model is recognized by.
INTEGER_OPERATORS = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"),
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "DynamicQuantizeMatMul"),
        *("MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QGemm", "QAttention", "MatMulNBits"),
    }
)

# Why the others that a reader might expect are not there.
WITHOUT_KERNEL = {
    "ConvTranspose": "ONNX Runtime has no integer kernel for ConvTranspose on the CPU",
    "GRU": "ONNX Runtime has no integer kernel for GRU",
    "RNN": "ONNX Runtime has no integer kernel for RNN",
    "Softmax": "Softmax loses more accuracy than it wins time",
    "LayerNormalization": "LayerNormalization has no integer kernel",
}


def part_of(node: ir.Node) -> Part | None:
    """The part that a node can play in a quantized region; None if it has no integer kernel."""
    if node.domain:
        return None
    if node.op_type == "Resize":
        mode = node.attributes.get("mode")
        return "copy" if mode is None or mode.as_string() == "nearest" else None
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return None
    return _PARTS.get(node.op_type)


def activations_of(node: ir.Node) -> tuple[int, ...]:
    """Indexes of the inputs that hold activations."""
    if node.op_type in ("Add", "Mul", "Concat"):
        return tuple(range(len(node.inputs)))
    return (0, 1) if multiplies_activations(node) else (0,)


def multiplies_activations(node: ir.Node) -> bool:
    """True for a MatMul of two computed float operands, as of queries and keys."""
    if node.op_type != "MatMul" or node.domain or constant(node.inputs[1]) is not None:
        return False
    producers = [None if value is None else value.producer() for value in node.inputs]
    return all(made is None or made.op_type != "DequantizeLinear" for made in producers)


def is_thin(node: ir.Node) -> bool:
    """True for a depthwise Conv and others with few input channels in each of many groups."""
    if node.op_type != "Conv" or int_attribute(node, "group", 1) == 1:
        return False
    shape = dims(node.inputs[1])
    channels = shape[1] if shape else None
    return not isinstance(channels, int) or channels < _FEWEST_CHANNELS


def absorbed_by_range(node: ir.Node) -> bool:
    """True for Relu and Clip from zero: a range that begins at zero does what they do."""
    if node.domain:
        return False
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip":
        return False
    attribute = node.attributes.get("min")
    if attribute is not None:
        return attribute.as_float() == 0.0
    low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return low is not None and low.size == 1 and float(low.reshape(())) == 0.0

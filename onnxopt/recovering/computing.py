"""Operators that compute, in PyTorch: `function(node, inputs) -> outputs`, differentiable.

A missing optional input is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from onnxopt.recovering.convolving import conv, conv_transpose, pool
from onnxopt.recovering.node import (
    Inputs,
    Node,
    Operator,
    UnsupportedFormError,
    need,
    optional,
)


def gemm(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Alpha A' B' + beta C."""
    left, right, bias = need(inputs, 0), need(inputs, 1), optional(inputs, 2)
    left = left.T if node.get("transA", 0) else left
    right = right.T if node.get("transB", 0) else right
    result = node.get("alpha", 1.0) * (left @ right)
    return (result if bias is None else result + node.get("beta", 1.0) * bias,)


def batch_norm(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """With the recorded statistics."""
    x, scale, bias, mean, variance = (need(inputs, place) for place in range(5))
    return (functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5)),)


def layer_norm(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """LayerNormalization; RMSNormalization without the mean."""
    x, scale, bias = need(inputs, 0), need(inputs, 1), optional(inputs, 2)
    axis = node.get("axis", -1) % x.dim()
    axes = list(range(axis, x.dim()))
    if node.op_type == "LayerNormalization":
        x = x - x.mean(axes, keepdim=True)
    x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5)) * scale
    return (x if bias is None else x + bias,)


def instance_norm(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Every channel on its own."""
    x, scale, bias = (need(inputs, place) for place in range(3))
    return (functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5)),)


def softmax(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Softmax and LogSoftmax; before opset 13 over all axes from `axis` on."""
    x = need(inputs, 0)
    function = functional.softmax if node.op_type == "Softmax" else functional.log_softmax
    if node.opset >= 13:
        return (function(x, dim=node.get("axis", -1)),)
    axis = node.get("axis", 1) % x.dim()
    return (function(x.flatten(axis), dim=-1).reshape(x.shape),)


def clip(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Bounds are inputs or attributes."""
    low, high = optional(inputs, 1), optional(inputs, 2)
    least = node.get("min") if low is None else float(low)
    most = node.get("max") if high is None else float(high)
    x = need(inputs, 0)
    return (x if least is None and most is None else torch.clamp(x, least, most),)


def gelu(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Exact, or by tanh."""
    by_tanh = node.op_type == "FastGelu" or node.get("approximate", "none") == "tanh"
    x, bias = need(inputs, 0), optional(inputs, 1)
    return (
        functional.gelu(x if bias is None else x + bias, approximate="tanh" if by_tanh else "none"),
    )


def round_through(x: Tensor) -> Tensor:
    """Rounds, with the gradient of the identity (the straight-through estimator)."""
    return x + (torch.round(x) - x).detach()


def quantize(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """QuantizeLinear to integers as floats, so that gradients pass."""
    x, scale = need(inputs, 0), _along(node, inputs, need(inputs, 1))
    zero = optional(inputs, 2)
    limits = torch.iinfo(torch.uint8 if zero is None else zero.dtype)
    shift = 0.0 if zero is None else _along(node, inputs, zero).to(x.dtype)
    return (torch.clamp(round_through(x / scale) + shift, limits.min, limits.max),)


def dequantize(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """DequantizeLinear of integers, or of their stand-ins in float."""
    x, scale = need(inputs, 0), _along(node, inputs, need(inputs, 1))
    zero = optional(inputs, 2)
    shift = 0.0 if zero is None else _along(node, inputs, zero).to(scale.dtype)
    return ((x.to(scale.dtype) - shift) * scale,)


def _along(node: Node, inputs: Inputs, value: Tensor) -> Tensor:
    """A scale or zero point, shaped to broadcast with the first input."""
    if node.get("block_size", 0):
        raise UnsupportedFormError("scales per block")
    x = need(inputs, 0)
    if value.numel() == 1:
        return value.reshape(())
    shape = [1] * x.dim()
    shape[node.get("axis", 1)] = -1
    return value.reshape(shape)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, inputs: (function(need(inputs, 0)),)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda node, inputs: (function(need(inputs, 0), need(inputs, 1)),)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(node: Node, inputs: Inputs) -> Sequence[Tensor]:
        result = need(inputs, 0)
        for place in range(1, len(inputs)):
            result = function(result, need(inputs, place))
        return (result,)

    return operator


def _divide(one: Tensor, other: Tensor) -> Tensor:
    if one.is_floating_point():
        return one / other
    return torch.div(one, other, rounding_mode="trunc")


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


COMPUTING: dict[str, Operator] = {
    **{
        name: _unary(function)
        for name, function in {
            "Abs": torch.abs,
            "Ceil": torch.ceil,
            "Cos": torch.cos,
            "Dropout": lambda x: x,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "Floor": torch.floor,
            "HardSwish": functional.hardswish,
            "Identity": lambda x: x,
            "IsNaN": torch.isnan,
            "Log": torch.log,
            "Mish": functional.mish,
            "Neg": torch.neg,
            "Not": torch.logical_not,
            "Reciprocal": torch.reciprocal,
            "Relu": functional.relu,
            "Round": torch.round,
            "Sigmoid": torch.sigmoid,
            "Sign": torch.sign,
            "Sin": torch.sin,
            "Softplus": functional.softplus,
            "Softsign": functional.softsign,
            "Sqrt": torch.sqrt,
            "Tanh": torch.tanh,
        }.items()
    },
    **{
        name: _binary(function)
        for name, function in {
            "Add": torch.add,
            "And": torch.logical_and,
            "Div": _divide,
            "Equal": torch.eq,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
            "MatMul": torch.matmul,
            "Mul": torch.mul,
            "Or": torch.logical_or,
            "PRelu": _prelu,
            "Pow": torch.pow,
            "Sub": torch.sub,
        }.items()
    },
    "AveragePool": pool,
    "BatchNormalization": batch_norm,
    "BiasGelu": gelu,
    "Clip": clip,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantize,
    "Elu": lambda node, inputs: (functional.elu(need(inputs, 0), node.get("alpha", 1.0)),),
    "FastGelu": gelu,
    "Gelu": gelu,
    "Gemm": gemm,
    "HardSigmoid": lambda node, inputs: (
        torch.clamp(node.get("alpha", 0.2) * need(inputs, 0) + node.get("beta", 0.5), 0, 1),
    ),
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda node, inputs: (
        functional.leaky_relu(need(inputs, 0), node.get("alpha", 0.01)),
    ),
    "LogSoftmax": softmax,
    "Max": _fold(torch.maximum),
    "MaxPool": pool,
    "Min": _fold(torch.minimum),
    "QuantizeLinear": quantize,
    "QuickGelu": lambda node, inputs: (
        need(inputs, 0) * torch.sigmoid(node.get("alpha", 1.702) * need(inputs, 0)),
    ),
    "RMSNormalization": layer_norm,
    "SimplifiedLayerNormalization": layer_norm,
    "Softmax": softmax,
    "Sum": _fold(torch.add),
    "Swish": lambda node, inputs: (
        need(inputs, 0) * torch.sigmoid(node.get("alpha", 1.0) * need(inputs, 0)),
    ),
}

"""Convolutions and pooling, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from onnxopt.recovering.node import Inputs, Node, UnsupportedFormError, need, optional


def _pads(node: Node, x: Tensor, kernel: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The input, padded where both sides differ, and the padding left to the function."""
    rank = len(kernel)
    mode = node.get("auto_pad", "NOTSET")
    pads = list(node.get("pads", [0] * 2 * rank))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
        for axis in range(rank):
            size, reach = x.shape[2 + axis], (kernel[axis] - 1) * dilations[axis] + 1
            total = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + rank] = (
                (small, large) if mode == "SAME_UPPER" else (large, small)
            )
    if pads[:rank] == pads[rank:]:
        return x, pads[:rank]
    flat = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
    value = -math.inf if node.op_type == "MaxPool" else 0.0
    return functional.pad(x, flat, value=value), [0] * rank


def conv(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Conv of any rank."""
    x, weight = need(inputs, 0), need(inputs, 1)
    rank = weight.dim() - 2
    x, padding = _pads(node, x, weight.shape[2:])
    function: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return (
        function(
            x,
            weight,
            optional(inputs, 2),
            stride=node.get("strides", [1] * rank),
            padding=padding,
            dilation=node.get("dilations", [1] * rank),
            groups=node.get("group", 1),
        ),
    )


def conv_transpose(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """ConvTranspose with symmetric padding."""
    weight = need(inputs, 1)
    rank = weight.dim() - 2
    pads = list(node.get("pads", [0] * 2 * rank))
    if pads[:rank] != pads[rank:] or node.get("output_shape") or node.get("auto_pad"):
        raise UnsupportedFormError("padding that is not symmetric")
    function: Any = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[rank - 1]
    return (
        function(
            need(inputs, 0),
            weight,
            optional(inputs, 2),
            stride=node.get("strides", [1] * rank),
            padding=pads[:rank],
            output_padding=node.get("output_padding", [0] * rank),
            groups=node.get("group", 1),
            dilation=node.get("dilations", [1] * rank),
        ),
    )


def pool(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """MaxPool and AveragePool."""
    kernel = list(node.attributes["kernel_shape"])
    rank = len(kernel)
    dilations = node.get("dilations", [1] * rank)
    if node.outputs > 1 or (node.op_type == "AveragePool" and set(dilations) != {1}):
        raise UnsupportedFormError("indices, or dilation of a mean")
    average = node.op_type == "AveragePool"
    x, padding = need(inputs, 0), list(node.get("pads", [0] * 2 * rank))
    counted = bool(node.get("count_include_pad", 0))
    if average and padding[:rank] != padding[rank:] and not counted:
        raise UnsupportedFormError("a mean over padding that is not symmetric")
    x, padding = _pads(node, x, kernel)
    options: dict[str, Any] = {
        "stride": node.get("strides", [1] * rank),
        "padding": padding,
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }
    if average:
        mean: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
        return (mean(x, kernel, count_include_pad=counted, **options),)
    largest: Any = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    return (largest(x, kernel, dilation=dilations, **options),)

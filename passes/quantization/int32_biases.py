"""Biases of quantized layers as int32, as integer kernels read them.

    Conv(DQ(x, sx), DQ(W, sw), b)  ->  Conv(DQ(x, sx), DQ(W, sw), DQ(round(b / (sx sw)), sx sw))

and the same for Gemm. An integer kernel adds the bias to its int32 sums of products, whose scale
is the product of the scales of both operands, so that is the scale that the bias gets; its rounding
error, half of it, is hundreds of times smaller than a step of the output. PyTorch keeps biases in
float. Newer releases of ONNX Runtime quantize the bias of a layer with a quantized output at load;
a Gemm without one, and every layer in older releases, runs in float32 for it.

A channel whose weights are all zero can have any scale. Its scale is raised where its bias would
not fit otherwise (observers give dead channels the smallest scale there is).

Refused: a bias that does not fit int32 at this scale. Left alone silently: operands that are not
dequantized with constant scales, weights with a scale along another axis than that of the outputs,
Gemm with factors. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.quantization import quantize_bias, smallest_bias_scale
from onnxopt.graph.values import constant, int_attribute, opset_version
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    producer_of,
    refuse,
)

_BITS_8 = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeBiases(RewritePass):
    """Stores the float biases of quantized Conv and Gemm as int32, as integer kernels read them."""

    name: ClassVar[str] = "quantize-biases"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for each operator."""
        return [_Bias.rule("Conv", "conv-bias"), _Bias.rule("Gemm", "gemm-bias")]


class _Bias(NodeRule):
    """A layer with a constant float bias behind dequantized operands."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Whether both scales are known and the bias fits."""
        node = context.root
        if not has_input(node, 2) or opset_version(node, context.model) < 13:
            return no_match()
        bias = constant(node.inputs[2])
        data, weight = (producer_of(value, "DequantizeLinear") for value in node.inputs[:2])
        if data is None or weight is None or bias is None or bias.dtype != np.float32:
            return no_match()
        data_scale, scale = constant(data.inputs[1]), _channel_scale(node, weight, bias)
        if data_scale is None or data_scale.size != 1 or scale is None:
            return no_match()
        data_scale = data_scale.reshape(())
        raised = _raised(scale, weight, node, bias, data_scale)
        product = (data_scale * raised).astype(np.float32)
        if (smallest_bias_scale(bias) > product).any():
            return refuse("its bias does not fit int32 at the scale of its products", node)
        same = np.array_equal(raised, scale)
        return found(bias=bias, product=product, weight=weight, raised=None if same else raised)

    def rewrite(
        self,
        op: Any,
        root: ir.Value,
        bias: NDArray[Any],
        product: NDArray[np.float32],
        weight: ir.Node,
        raised: NDArray[np.float32] | None,
    ) -> ir.Value:
        """The layer on the dequantized bias."""
        node = root.producer()
        assert node is not None
        bias_input = node.inputs[2]
        assert bias_input is not None
        name = bias_input.name or f"{root.name}_bias"
        dequantized_bias = op.DequantizeLinear(
            op.initializer(ir.Tensor(quantize_bias(bias, product)), name=f"{name}_int32"),
            op.initializer(ir.Tensor(product), name=f"{name}_scale"),
            axis=0,
        )
        dequantized = node.inputs[1]
        if raised is not None:
            scale = op.initializer(ir.Tensor(raised), name=f"{root.name}_weight_scale")
            inputs = [weight.inputs[0], scale, *weight.inputs[2:]]
            dequantized = op.DequantizeLinear(*inputs, **weight.attributes)
        attributes: dict[str, Any] = dict(node.attributes)
        result: ir.Value = getattr(op, node.op_type)(
            node.inputs[0], dequantized, dequantized_bias, _name=node.name, **attributes
        )
        return result


def _channel_scale(node: ir.Node, weight: ir.Node, bias: NDArray[Any]) -> NDArray[Any] | None:
    """The weight's scale for every element of the bias, or None if it has none."""
    integers, scale = constant(weight.inputs[0]), constant(weight.inputs[1])
    if integers is None or scale is None or integers.dtype not in _BITS_8 or bias.ndim != 1:
        return None
    if scale.dtype != np.float32 or int_attribute(weight, "block_size", 0):
        return None
    if node.op_type == "Gemm" and not _is_plain(node):
        return None
    axis = _output_axis(node)
    if integers.ndim <= axis or integers.shape[axis] != len(bias):
        return None
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(1), bias.shape)
    if int_attribute(weight, "axis", 1) % integers.ndim != axis or scale.shape != bias.shape:
        return None
    return scale


def _output_axis(node: ir.Node) -> int:
    return 0 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else 1


def _is_plain(gemm: ir.Node) -> bool:
    return all(
        attribute is None or attribute.as_float() == 1
        for attribute in (gemm.attributes.get("alpha"), gemm.attributes.get("beta"))
    )


def _raised(
    scale: NDArray[Any],
    weight: ir.Node,
    node: ir.Node,
    bias: NDArray[Any],
    data_scale: NDArray[Any],
) -> NDArray[Any]:
    """The scale, larger for channels of zeros whose bias would not fit."""
    needed = (smallest_bias_scale(bias) / data_scale * 1.001).astype(np.float32)
    small = needed > scale
    stored = constant(weight.inputs[1])
    if not small.any() or stored is None or stored.size == 1:
        return scale
    integers = constant(weight.inputs[0])
    zero = constant(weight.inputs[2]) if has_input(weight, 2) else None
    assert integers is not None
    axis = _output_axis(node)
    others = tuple(index for index in range(integers.ndim) if index != axis)
    shape = [-1 if index == axis else 1 for index in range(integers.ndim)]
    wanted = 0 if zero is None else zero.reshape(shape if zero.size > 1 else [1] * integers.ndim)
    dead = (integers == wanted).all(others)
    return np.where(small & dead, needed, scale)

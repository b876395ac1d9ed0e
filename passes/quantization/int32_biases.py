"""Biases of quantized layers as int32, as integer kernels read them.

    Conv(DQ(x, sx), DQ(W, sw), b)  ->  Conv(DQ(x, sx), DQ(W, sw), DQ(round(b / (sx sw)), sx sw))

and the same for Gemm, and for the Add behind a MatMul where ONNX Runtime makes a Gemm of both. An
integer kernel adds the bias to its int32 sums of products, whose scale is the product of the scales
of both operands, so that is the scale that the bias gets; its rounding error, half of it, is
hundreds of times smaller than a step of the output. PyTorch keeps biases in float. Newer releases
of ONNX Runtime quantize the bias of a layer with a quantized output at load; a Gemm without one,
and every layer in older releases, runs in float32 for it.

A channel whose weights are all zero can have any scale. Its scale is raised where its bias would
not fit otherwise (observers give dead channels the smallest scale there is).

Refused: a bias that does not fit int32 at this scale; with `avoid_saturation` weights with which
integer kernels could saturate. Left alone silently: operands that are not dequantized with constant
scales, weights with a scale along another axis than that of the outputs, Gemm with factors.
Subgraphs are rewritten too.
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
from onnxopt.graph.values import constant, int_attribute, opset_version, static_dims
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.quantization.signed_weights import weight_can_saturate

_BITS_8 = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeBiases(RewritePass):
    """Stores the float biases of quantized layers as int32, as integer kernels read them.

    Attributes:
        avoid_saturation: Leave layers in float that could saturate on CPUs without VNNI.
    """

    name: ClassVar[str] = "quantize-biases"

    avoid_saturation: bool = False

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for each operator that adds a bias."""
        return [
            _Bias.rule(op_type, f"{layer}-bias", self.avoid_saturation)
            for op_type, layer in (("Conv", "conv"), ("Gemm", "gemm"), ("Add", "matmul"))
        ]


class _Bias(NodeRule):
    """A node that adds a constant float bias to products of dequantized operands."""

    def __init__(self, op_type: str, name: str, avoid_saturation: bool) -> None:
        super().__init__(op_type, name)
        self._avoid_saturation = avoid_saturation

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Whether both scales are known and the bias fits."""
        node = context.root
        place = _place(node)
        if place is None or opset_version(node, context.model) < 13:
            return no_match()
        layer, index = place
        bias = constant(node.inputs[index])
        data, weight = (producer_of(value, "DequantizeLinear") for value in layer.inputs[:2])
        if data is None or weight is None or bias is None or bias.dtype != np.float32:
            return no_match()
        data_scale, scale = constant(data.inputs[1]), _channel_scale(layer, weight, bias)
        if data_scale is None or data_scale.size != 1 or scale is None:
            return no_match()
        data_scale = data_scale.reshape(())
        raised = _raised(scale, weight, layer, bias, data_scale)
        product = (data_scale * raised).astype(np.float32)
        # Of a bias that is NaN the smallest scale is NaN, too; products of tiny scales are zero.
        if not ((smallest_bias_scale(bias) <= product) & (product > 0)).all():
            return refuse("its bias does not fit int32 at the scale of its products", node)
        if self._avoid_saturation and weight_can_saturate(weight):
            return refuse("its weights could saturate the 8-bit kernels of this CPU", node)
        same = np.array_equal(raised, scale)
        return found(
            index=index, bias=bias, product=product, weight=weight, raised=None if same else raised
        )

    def rewrite(
        self,
        op: Any,
        root: ir.Value,
        index: int,
        bias: NDArray[Any],
        product: NDArray[np.float32],
        weight: ir.Node,
        raised: NDArray[np.float32] | None,
    ) -> ir.Value:
        """The node on the dequantized bias."""
        node = root.producer()
        assert node is not None
        value = node.inputs[index]
        assert value is not None
        name = value.name or f"{root.name}_bias"
        inputs = list(node.inputs)
        inputs[index] = op.DequantizeLinear(
            op.initializer(ir.Tensor(quantize_bias(bias, product)), name=f"{name}_int32"),
            op.initializer(ir.Tensor(product), name=f"{name}_scale"),
            axis=0,
        )
        if raised is not None:
            scale = op.initializer(ir.Tensor(raised), name=f"{root.name}_weight_scale")
            inputs[1] = op.DequantizeLinear(
                weight.inputs[0], scale, *weight.inputs[2:], **weight.attributes
            )
        attributes: dict[str, Any] = dict(node.attributes)
        result: ir.Value = getattr(op, node.op_type)(*inputs, _name=node.name, **attributes)
        return result


def _place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The layer and the index of the node's input that is its bias."""
    if node.op_type != "Add":
        return (node, 2) if has_input(node, 2) else None
    for index, value in enumerate(node.inputs):
        layer = producer_of(value, "MatMul")
        if layer is not None and only_user(layer.outputs[0]) and _becomes_gemm(layer):
            return layer, 1 - index
    return None


def _becomes_gemm(matmul: ir.Node) -> bool:
    """Whether ONNX Runtime makes a Gemm of MatMul and Add: of matrices and of known shapes."""
    data = matmul.inputs[0]
    is_matrix = data is not None and data.shape is not None and len(data.shape) == 2
    return is_matrix or static_dims(data) is not None


def _channel_scale(layer: ir.Node, weight: ir.Node, bias: NDArray[Any]) -> NDArray[Any] | None:
    """The weight's scale for every element of the bias, or None if it has none."""
    integers, scale = constant(weight.inputs[0]), constant(weight.inputs[1])
    if integers is None or scale is None or integers.dtype not in _BITS_8 or bias.ndim != 1:
        return None
    if scale.dtype != np.float32 or int_attribute(weight, "block_size", 0):
        return None
    if layer.op_type == "MatMul" and integers.ndim != 2:
        return None
    if layer.op_type == "Gemm" and not _is_plain(layer):
        return None
    axis = _output_axis(layer)
    if integers.ndim <= axis or integers.shape[axis] != len(bias):
        return None
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(1), bias.shape)
    if int_attribute(weight, "axis", 1) % integers.ndim != axis or scale.shape != bias.shape:
        return None
    return scale


def _output_axis(layer: ir.Node) -> int:
    return 0 if layer.op_type == "Conv" or int_attribute(layer, "transB", 0) else 1


def _is_plain(gemm: ir.Node) -> bool:
    return all(
        attribute is None or attribute.as_float() == 1
        for attribute in (gemm.attributes.get("alpha"), gemm.attributes.get("beta"))
    )


def _raised(
    scale: NDArray[Any],
    weight: ir.Node,
    layer: ir.Node,
    bias: NDArray[Any],
    data_scale: NDArray[Any],
) -> NDArray[Any]:
    """The scale, larger for channels of zeros whose bias would not fit."""
    needed = (smallest_bias_scale(bias) / data_scale * 1.001).astype(np.float32)
    small = needed > scale
    stored = constant(weight.inputs[1])
    if not small.any() or stored is None or stored.size == 1 or layer.op_type == "MatMul":
        return scale
    integers = constant(weight.inputs[0])
    zero = constant(weight.inputs[2]) if has_input(weight, 2) else None
    assert integers is not None
    axis = _output_axis(layer)
    others = tuple(index for index in range(integers.ndim) if index != axis)
    shape = [-1 if index == axis else 1 for index in range(integers.ndim)]
    wanted = 0 if zero is None else zero.reshape(shape if zero.size > 1 else [1] * integers.ndim)
    dead = (integers == wanted).all(others)
    return np.where(small & dead, needed, scale)

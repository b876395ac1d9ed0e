"""Means over the whole image between Q and DQ as GlobalAveragePool, which has an integer kernel.

    Q(ReduceMean(DQ(x), axes 2.., keepdims=1))  ->  Q(GlobalAveragePool(DQ(x)))
    Q(ReduceMean(DQ(x), axes 2.., keepdims=0))  ->  Squeeze(Q(GlobalAveragePool(DQ(x))))

Both compute the mean over all axes behind the channels. PyTorch's adaptive pooling to one pixel is
exported as ReduceMean, which ONNX Runtime only knows in float32.

Left alone silently: other axes, unknown ranks, means that other nodes read as well or that are not
quantized with one scale. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, int_attribute, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    ints_parameter,
    no_match,
    only_user,
    producer_of,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolQuantizedMeans(RewritePass):
    """Writes a quantized mean over the whole image as GlobalAveragePool, an integer kernel."""

    name: ClassVar[str] = "pool-quantized-means"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule, at the QuantizeLinear behind the mean."""
        return [_Mean.rule("QuantizeLinear", "mean-to-pool")]


class _Mean(NodeRule):
    """A mean over all spatial axes between DequantizeLinear and QuantizeLinear."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Whether the axes are all those behind the channels."""
        node = context.root
        mean = producer_of(node.inputs[0], "ReduceMean")
        if mean is None or not only_user(mean.outputs[0]):
            return no_match()
        size = rank(mean.inputs[0])
        axes = ints_parameter(mean, "axes", 1)
        if size is None or size < 3 or not axes:
            return no_match()
        if sorted(axis % size for axis in axes) != list(range(2, size)):
            return no_match()
        scale = constant(node.inputs[1])
        if producer_of(mean.inputs[0], "DequantizeLinear") is None or scale is None:
            return no_match()
        keeps = bool(int_attribute(mean, "keepdims", 1))
        if scale.size != 1 or (not keeps and opset_version(node, context.model) < 13):
            return no_match()
        return found(mean=mean, size=size, keeps=keeps)

    def rewrite(self, op: Any, root: ir.Value, mean: ir.Node, size: int, keeps: bool) -> ir.Value:
        """The pool, quantized; squeezed where the mean dropped the axes."""
        node = root.producer()
        assert node is not None
        pooled = op.GlobalAveragePool(mean.inputs[0])
        shape = mean.inputs[0].shape if mean.inputs[0] is not None else None
        if shape is not None:
            pooled.shape = ir.Shape([*shape[:2], *[1] * (size - 2)])
        pooled.type = mean.outputs[0].type
        attributes: dict[str, Any] = dict(node.attributes)
        quantized: ir.Value = op.QuantizeLinear(pooled, *node.inputs[1:], **attributes)
        if keeps:
            return quantized
        quantized.type, quantized.shape = root.type, pooled.shape
        axes = ir.Tensor(np.arange(2, size, dtype=np.int64))
        squeezed: ir.Value = op.Squeeze(quantized, op.initializer(axes, name=f"{root.name}_axes"))
        return squeezed

"""RMSNormalization out of its parts.

    x / sqrt(mean(x^2) + e)              -> RMSNormalization(x, ones, epsilon=e)      opset >= 23
    RMSNormalization(x, ones) * g        -> RMSNormalization(x, g)
    Cast(RMSNormalization(Cast(x), g))   -> RMSNormalization(x, g)                    x of 16 bit
    x * Reciprocal(Sqrt(mean(x^2) + e))  -> x / Sqrt(ReduceMean(Pow(x, 2)) + e)       below 23

Opsets below 23 have no RMSNormalization. There the parts are brought into the one spelling that
ONNX Runtime fuses by itself at load time: it knows Div by Sqrt and Pow(x, 2), but neither
Reciprocal, as torch exports rsqrt, nor x * x. Measured with ONNX Runtime 1.32, one thread, six in a
row with a scale each, milliseconds:

                       Reciprocal    x * x    Div, Pow    RMSNormalization
    1 x 1 x 1024         0.036       0.030      0.014          0.014
    1 x 128 x 1024       0.69        0.62       0.21           0.21

The mean goes over the last axes; ones have the size of these axes, which must be known. A scale is
taken in if it is a constant or computed vector of exactly that shape.

Refused: below opset 23 a mean without e, which ONNX Runtime does not fuse; intermediate values with
other users; a mean over other axes; types that are not float, double, float16 or bfloat16.
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, opset_version
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import FLOATS
from onnxopt.passes.fusion.normalization import (
    NormalizationCasts,
    Quotient,
    closed,
    read_quotient,
    trailing_axes,
    trailing_shape,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseRMSNorm(RewritePass):
    """Fuses RMSNormalization from opset 23 on, and below writes it as ONNX Runtime knows it."""

    name: ClassVar[str] = "fuse-rms-norm"

    def rules(self) -> Sequence[RewriteRule]:
        """The quotient, spelled as Div or Mul, the scale and the Casts around."""
        return [
            _Quotient.rule("Div", "rms-norm-div"),
            _Quotient.rule("Mul", "rms-norm-mul"),
            _Scale.rule("Mul", "rms-norm-scale"),
            _Casts.rule("Cast", "rms-norm-casts"),
        ]


class _Quotient(NodeRule):
    """`x / sqrt(mean(x^2) + e)`."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        quotient = read_quotient(node)
        if quotient is None or quotient.x.dtype not in FLOATS:
            return no_match()
        version = opset_version(node, context.model)
        if version < 23 and quotient.plain:
            return no_match()
        count = trailing_axes(quotient.below.mean)
        shape = None if count is None else trailing_shape(quotient.x, count)
        if version >= 23 and (count is None or shape is None):
            return no_match() if count is None else refuse("the normalized size is not known", node)
        if version < 23 and (count is None or quotient.below.mean.op_type != "ReduceMean"):
            return no_match()
        if version < 23 and not quotient.below.epsilon:
            # Others remove the Add of a zero, and both would go on forever.
            return refuse("there is no epsilon, and without one runtimes do not fuse it", node)
        if not closed(quotient.nodes, node):
            return refuse("a value inside the normalization has other users", node)
        return found(parts=(quotient, count if version >= 23 else None, shape or ()))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Quotient, int | None, tuple[int, ...]]
    ) -> ir.Value:
        """RMSNormalization with a scale of ones, or the parts that ONNX Runtime fuses."""
        quotient, count, shape = parts
        x = quotient.x
        dtype = x.dtype
        assert dtype is not None
        y: ir.Value
        if count is not None:
            ones = ir.Tensor(np.ones(shape, dtype.numpy()), dtype=dtype)
            scale = op.initializer(ones, name=f"{root.name}_scale")
            y = op.RMSNormalization(x, scale, axis=-count, epsilon=quotient.below.epsilon)
            return y
        two = op.initializer(ir.Tensor(np.asarray(2.0).astype(dtype.numpy()), dtype=dtype), "two")
        mean = quotient.below.mean
        small = np.asarray(quotient.below.epsilon).astype(dtype.numpy())
        epsilon = op.initializer(ir.Tensor(small, dtype=dtype), f"{root.name}_epsilon")
        squares = op.Pow(x, two)
        squares.type, squares.shape = x.type, x.shape
        steps = [op.ReduceMean(squares, *mean.inputs[1:], **mean.attributes)]
        steps.append(op.Add(steps[-1], epsilon))
        steps.append(op.Sqrt(steps[-1]))
        for step in steps:
            step.type, step.shape = mean.outputs[0].type, mean.outputs[0].shape
        y = op.Div(x, steps[-1])
        return y


class _Scale(NodeRule):
    """`RMSNormalization(x, ones) * g`."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        for normalized, scale in (node.inputs, node.inputs[::-1]):
            norm = producer_of(normalized, "RMSNormalization")
            if norm is None or scale is None or normalized is None or not only_user(normalized):
                continue
            ones = constant(norm.inputs[1])
            if ones is None or not np.all(ones == 1) or dims(scale) != ones.shape:
                continue
            if norm.inputs[0] is None or scale.dtype != norm.inputs[0].dtype:
                continue
            return found(parts=(norm, scale))
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Node, ir.Value]) -> ir.Value:
        """RMSNormalization with the scale inside."""
        norm, scale = parts
        y: ir.Value = op.RMSNormalization(norm.inputs[0], scale, **norm.attributes)
        return y


class _Casts(NormalizationCasts):
    """`Cast(RMSNormalization(Cast(x, float), g))` back to the 16-bit type of x."""

    norm_type = "RMSNormalization"

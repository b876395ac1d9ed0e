"""RMSNormalization out of its parts.

    x / sqrt(mean(x^2) + e)              -> RMSNormalization(x, ones, epsilon=e)      opset >= 23
    RMSNormalization(x, ones) * g        -> RMSNormalization(x, g)
    Cast(RMSNormalization(Cast(x), g))   -> RMSNormalization(x, g)                    x of 16 bit
    x * Reciprocal(Sqrt(mean(x^2) + e))  -> x / Sqrt(ReduceMean(Pow(x, 2)) + e)       below 23

With `operators` it becomes SimplifiedLayerNormalization below opset 23. That is what ONNX Runtime
makes of the parts at load, an operator that it adds to the default domain and no standard knows.

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
from onnxopt.passes.fusion.runtime_operators import check_operators

_RUNTIME = "SimplifiedLayerNormalization"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseRMSNorm(RewritePass):
    """Fuses RMSNormalization from opset 23 on, and below writes it as ONNX Runtime knows it.

    Attributes:
        operators: Operators of ONNX Runtime to use below opset 23: SimplifiedLayerNormalization.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    operators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the names of the operators."""
        check_operators(self.name, self.operators, (_RUNTIME,))

    def rules(self) -> Sequence[RewriteRule]:
        """The quotient, spelled as Div or Mul, the scale and the Casts around."""
        return [
            _Quotient.rule("Div", "rms-norm-div", bool(self.operators)),
            _Quotient.rule("Mul", "rms-norm-mul", bool(self.operators)),
            _Scale.rule("Mul", "rms-norm-scale"),
            _Casts.rule("Cast", "rms-norm-casts"),
            _RuntimeCasts.rule("Cast", "simplified-norm-casts"),
        ]


class _Quotient(NodeRule):
    """`x / sqrt(mean(x^2) + e)`."""

    def __init__(self, op_type: str, name: str, runtime: bool) -> None:
        super().__init__(op_type, name)
        self._runtime = runtime

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        quotient = read_quotient(node)
        if quotient is None or quotient.x.dtype not in FLOATS:
            return no_match()
        standard = opset_version(node, context.model) >= 23
        operator = "RMSNormalization" if standard else _RUNTIME if self._runtime else None
        if not operator and quotient.plain:
            return no_match()
        count = trailing_axes(quotient.below.mean)
        if count is None or (not operator and quotient.below.mean.op_type != "ReduceMean"):
            return no_match()
        shape = trailing_shape(quotient.x, count)
        if operator and shape is None:
            return refuse("the normalized size is not known", node)
        if not operator and not quotient.below.epsilon:
            # Others remove the Add of a zero, and both would go on forever.
            return refuse("there is no epsilon, and without one runtimes do not fuse it", node)
        if not closed(quotient.nodes, node):
            return refuse("a value inside the normalization has other users", node)
        return found(parts=(quotient, operator, shape or ()))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Quotient, str | None, tuple[int, ...]]
    ) -> ir.Value:
        """The operator with a scale of ones, or the parts that ONNX Runtime fuses."""
        quotient, operator, shape = parts
        x = quotient.x
        dtype = x.dtype
        assert dtype is not None
        y: ir.Value
        if operator:
            ones = ir.Tensor(np.ones(shape, dtype.numpy()), dtype=dtype)
            scale = op.initializer(ones, name=f"{root.name}_scale")
            epsilon = quotient.below.epsilon
            y = op.op(operator, x, scale, axis=-len(shape), epsilon=epsilon)
            return y
        two = op.initializer(ir.Tensor(np.asarray(2.0).astype(dtype.numpy()), dtype=dtype), "two")
        mean = quotient.below.mean
        small = np.asarray(quotient.below.epsilon).astype(dtype.numpy())
        small_value = op.initializer(ir.Tensor(small, dtype=dtype), f"{root.name}_epsilon")
        squares = op.Pow(x, two)
        squares.type, squares.shape = x.type, x.shape
        steps = [op.ReduceMean(squares, *mean.inputs[1:], **mean.attributes)]
        steps.append(op.Add(steps[-1], small_value))
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
            norm = producer_of(normalized, "RMSNormalization", _RUNTIME)
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
        y: ir.Value = op.op(norm.op_type, norm.inputs[0], scale, **norm.attributes)
        return y


class _Casts(NormalizationCasts):
    """`Cast(RMSNormalization(Cast(x, float), g))` back to the 16-bit type of x."""

    norm_type = "RMSNormalization"


class _RuntimeCasts(_Casts):
    """The same around the operator of ONNX Runtime."""

    norm_type = _RUNTIME

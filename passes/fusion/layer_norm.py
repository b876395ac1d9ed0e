"""LayerNormalization out of its parts.

    d = x - mean(x)
    d / sqrt(mean(d^2) + e)                          -> LayerNormalization(x, ones, epsilon=e)
    LayerNormalization(x, ones) * g                  -> LayerNormalization(x, g)
    LayerNormalization(x, g) + b                     -> LayerNormalization(x, g, b)
    r = g / sqrt(mean(d^2) + e)
    x * r + (b - mean(x) * r)                        -> LayerNormalization(x, g, b)
    Cast(LayerNormalization(Cast(x, float), g, b))   -> LayerNormalization(x, g, b)    x of 16 bit

Opset 17 and newer. The quotient may be a Div by Sqrt or a Mul by Reciprocal(Sqrt), 1 / Sqrt or
Pow(.., -0.5), the square Pow(d, 2) or d * d, and d may be computed twice. The third form is the one
of TensorFlow. LayerNormalization computes 16-bit values in float by itself (stash_type), which makes
the Casts of a mixed-precision model superfluous.

The means go over the same last axes; their size must be known for the ones. Scale and bias are taken
in if they are vectors of exactly that shape, constant or computed.

Refused: intermediate values with other users; a size that is not known; opset 16 and older ("needs
opset 17"); scales whose 16-bit form would not be exact. Subgraphs are rewritten too.
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
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import FLOATS
from onnxopt.passes.fusion.normalization import (
    closed,
    read_quotient,
    trailing_axes,
    trailing_shape,
)

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(RewritePass):
    """Fuses LayerNormalization, with its scale, bias and Casts, out of ReduceMean and arithmetic."""

    name: ClassVar[str] = "fuse-layer-norm"

    def rules(self) -> Sequence[RewriteRule]:
        """The core, spelled three ways, then what it takes in."""
        return [
            _Core.rule("Div", "layer-norm-div"),
            _Core.rule("Mul", "layer-norm-mul"),
            _Scale.rule("Mul", "layer-norm-scale"),
            _Bias.rule("Add", "layer-norm-bias"),
            _ScaledFirst.rule("Add", "layer-norm-scaled-first"),
            _Casts.rule("Cast", "layer-norm-casts"),
        ]


def _centered(value: ir.Value) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """Reads x - mean(x) as (x, the ReduceMean, the Sub)."""
    sub = producer_of(value, "Sub")
    mean = None if sub is None else producer_of(sub.inputs[1], "ReduceMean")
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0]:
        return None
    assert mean.inputs[0] is not None
    return mean.inputs[0], mean, sub


@dataclasses.dataclass(frozen=True)
class _Found:
    x: ir.Value
    count: int
    shape: tuple[int, ...]
    epsilon: float
    scale: ir.Value | None = None
    bias: ir.Value | None = None


def _emit(op: Any, found: _Found, name: str | None) -> ir.Value:
    scale = found.scale
    if scale is None:
        dtype = found.x.dtype
        assert dtype is not None
        ones = ir.Tensor(np.ones(found.shape, dtype.numpy()), dtype=dtype)
        scale = op.initializer(ones, name=f"{name}_scale")
    inputs = [found.x, scale] if found.bias is None else [found.x, scale, found.bias]
    y: ir.Value = op.LayerNormalization(*inputs, axis=-found.count, epsilon=found.epsilon)
    return y


class _Core(NodeRule):
    """`(x - mean(x)) / sqrt(mean((x - mean(x))^2) + e)`."""

    _found: _Found

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        quotient = read_quotient(node)
        centered = None if quotient is None else _centered(quotient.x)
        if quotient is None or centered is None:
            return no_match()
        x, mean, sub = centered
        count = trailing_axes(mean)
        if count is None or count != trailing_axes(quotient.mean) or x.dtype not in FLOATS:
            return no_match()
        if opset_version(node, context.model) < 17:
            return refuse("LayerNormalization needs opset 17 (--opset 17)", node)
        shape = trailing_shape(x, count)
        if shape is None:
            return refuse("the normalized size is not known", node)
        if not closed([*quotient.nodes, mean, sub], node):
            return refuse("a value inside the normalization has other users", node)
        self._found = _Found(x, count, shape, quotient.epsilon)
        return MatchResult()

    def rewrite(self, op: Any, root: ir.Value) -> ir.Value:
        """LayerNormalization with a scale of ones."""
        return _emit(op, self._found, root.name)


class _TakesIn(NodeRule):
    """A Mul or Add behind LayerNormalization."""

    _found: tuple[ir.Node, ir.Value]

    def fits(self, norm: ir.Node, scale: NDArrayOrNone, shape: tuple[int, ...]) -> bool:
        """Whether the node before can take in a vector of `shape`."""
        raise NotImplementedError

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        for normalized, vector in (node.inputs, node.inputs[::-1]):
            norm = producer_of(normalized, "LayerNormalization")
            if norm is None or vector is None or normalized is None:
                continue
            shape = dims(vector)
            scale_shape = dims(norm.inputs[1])
            if shape is None or shape != scale_shape or vector.dtype != norm.inputs[0].dtype:
                continue
            if len(shape) != -_axis(norm) or not self.fits(norm):
                continue
            if not only_user(normalized) or len(_used(norm)) > 1:
                return refuse("the normalized value has other users", node)
            self._found = (norm, vector)
            return MatchResult()
        return no_match()

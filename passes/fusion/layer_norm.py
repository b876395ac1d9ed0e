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
of TensorFlow. LayerNormalization computes 16-bit values in float by itself (stash_type), which
makes the Casts of a mixed-precision model superfluous.

The means go over the same last axes; their size must be known for the ones. Scale and bias are
taken in if they are vectors of exactly that shape, constant or computed.

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
from onnxopt.graph.values import constant, opset_version, rank, static_dims
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import FLOATS
from onnxopt.passes.fusion.normalization import (
    NormalizationCasts,
    closed,
    mean_of,
    read_inverse_root,
    read_quotient,
    trailing_axes,
    trailing_shape,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(RewritePass):
    """Fuses LayerNormalization, with its scale, bias and Casts, out of its parts."""

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
    """Reads x - mean(x) as (x, the node of the mean, the Sub)."""
    sub = producer_of(value, "Sub")
    mean = None if sub is None else mean_of(sub.inputs[1])
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

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        quotient = read_quotient(node)
        centered = None if quotient is None else _centered(quotient.x)
        if quotient is None or centered is None:
            return no_match()
        x, mean, sub = centered
        count = trailing_axes(mean)
        if count is None or count != trailing_axes(quotient.below.mean) or x.dtype not in FLOATS:
            return no_match()
        if opset_version(node, context.model) < 17:
            return refuse("LayerNormalization needs opset 17 (--opset 17)", node)
        shape = trailing_shape(x, count)
        if shape is None:
            return refuse("the normalized size is not known", node)
        if not closed([*quotient.nodes, mean, sub], node):
            return refuse("a value inside the normalization has other users", node)
        return found(parts=_Found(x, count, shape, quotient.below.epsilon))

    def rewrite(self, op: Any, root: ir.Value, parts: _Found) -> ir.Value:
        """LayerNormalization with a scale of ones."""
        return _emit(op, parts, root.name)


class _TakesIn(NodeRule):
    """A vector behind LayerNormalization: `* g` without a scale, `+ b` without a bias."""

    def fits(self, norm: ir.Node) -> bool:
        """True if the LayerNormalization has no such vector yet."""
        raise NotImplementedError

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        for normalized, vector in (node.inputs, node.inputs[::-1]):
            norm = producer_of(normalized, "LayerNormalization")
            if norm is None or vector is None or normalized is None or not self.fits(norm):
                continue
            x = norm.inputs[0]
            if x is None or vector.dtype != x.dtype or _fitting(vector, norm) is None:
                continue
            if not only_user(normalized):
                return refuse("the normalized value has other users", node)
            return found(parts=(norm, vector))
        return no_match()


class _Scale(_TakesIn):
    """`LayerNormalization(x, ones) * g`."""

    def fits(self, norm: ir.Node) -> bool:
        ones = constant(norm.inputs[1])
        return not has_input(norm, 2) and ones is not None and bool(np.all(ones == 1))

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Node, ir.Value]) -> ir.Value:
        """LayerNormalization with the scale inside."""
        norm, vector = parts
        scale = _as_vector(op, vector, norm)
        y: ir.Value = op.LayerNormalization(norm.inputs[0], scale, **norm.attributes)
        return y


class _Bias(_TakesIn):
    """`LayerNormalization(x, g) + b`."""

    def fits(self, norm: ir.Node) -> bool:
        return not has_input(norm, 2)

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Node, ir.Value]) -> ir.Value:
        """LayerNormalization with the bias inside."""
        norm, vector = parts
        bias = _as_vector(op, vector, norm)
        y: ir.Value = op.LayerNormalization(*norm.inputs[:2], bias, **norm.attributes)
        return y


def _fitting(vector: ir.Value, norm: ir.Node) -> tuple[int, ...] | None:
    """The shape of the vector without leading ones, if that is the shape of the scale."""
    wanted, shape = static_dims(norm.inputs[1]), static_dims(vector)
    if wanted is None or shape is None:
        return None
    extra = len(shape) - len(wanted)
    if extra == 0:
        return wanted if shape == wanted else None
    size = rank(norm.inputs[0])
    if extra < 0 or constant(vector) is None or size is None or len(shape) > size:
        return None
    return wanted if shape == (1,) * extra + wanted else None


def _as_vector(op: Any, vector: ir.Value, norm: ir.Node) -> ir.Value:
    shape = _fitting(vector, norm)
    array = constant(vector)
    if shape is None or array is None or array.shape == shape:
        return vector
    flat: ir.Value = op.initializer(
        ir.Tensor(array.reshape(shape), dtype=vector.dtype), name=vector.name
    )
    return flat


class _ScaledFirst(NodeRule):
    """`x * r + (b - mean(x) * r)` with `r = g / sqrt(mean((x - mean(x))^2) + e)`."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        read = _scaled_first(node)
        if read is None:
            return no_match()
        parts, nodes = read
        if opset_version(node, context.model) < 17:
            return refuse("LayerNormalization needs opset 17 (--opset 17)", node)
        vectors = [vector for vector in (parts.scale, parts.bias) if vector is not None]
        if any(static_dims(vector) != parts.shape for vector in vectors):
            return refuse("scale and bias are not vectors of the normalized size", node)
        if not closed(nodes, node):
            return refuse("a value inside the normalization has other users", node)
        return found(parts=parts)

    def rewrite(self, op: Any, root: ir.Value, parts: _Found) -> ir.Value:
        """LayerNormalization with scale and bias."""
        return _emit(op, parts, root.name)


def _scaled_first(root: ir.Node) -> tuple[_Found, list[ir.Node]] | None:
    for scaled, offset in (root.inputs, root.inputs[::-1]):
        product, sub = producer_of(scaled, "Mul"), producer_of(offset, "Sub")
        moved = None if sub is None else producer_of(sub.inputs[1], "Mul")
        if product is None or sub is None or moved is None:
            continue
        for x, factor in (product.inputs, product.inputs[::-1]):
            if factor is None or factor not in moved.inputs or x is None:
                continue
            middle = moved.inputs[1] if moved.inputs[0] is factor else moved.inputs[0]
            mean = mean_of(middle)
            if mean is None or mean.inputs[0] is not x:
                continue
            scale, inverse = None, read_inverse_root(factor)
            scaling = producer_of(factor, "Mul")
            nodes = [root, product, sub, moved, mean]
            if inverse is None and scaling is not None:
                nodes.append(scaling)
                for root_value, vector in (scaling.inputs, scaling.inputs[::-1]):
                    inverse = inverse or read_inverse_root(root_value)
                    scale = vector if inverse is not None and scale is None else scale
            difference = None if inverse is None else producer_of(inverse.base, "Sub")
            if inverse is None or difference is None:
                continue
            if list(difference.inputs) != [x, middle] or x.dtype not in FLOATS:
                continue
            count = trailing_axes(mean)
            shape = None if count is None else trailing_shape(x, count)
            if count is None or shape is None or count != trailing_axes(inverse.mean):
                continue
            found = _Found(x, count, shape, inverse.epsilon, scale, sub.inputs[0])
            return found, [*nodes, difference, *inverse.nodes]
    return None


class _Casts(NormalizationCasts):
    """`Cast(LayerNormalization(Cast(x, float), g, b))` back to the 16-bit type of x."""

    norm_type = "LayerNormalization"

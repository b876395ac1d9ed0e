"""A residual sum and the normalization behind it as one operator.

    LayerNormalization(x + y, g, b)               -> SkipLayerNormalization(x, y, g, b)
    LayerNormalization(x + (z + c), g, b)         -> SkipLayerNormalization(x, z, g, b, c)
    RMSNormalization(x + y, g)                    -> SkipSimplifiedLayerNormalization(x, y, g)

with c a constant vector, the bias of the layer before. If others read the sum too, as in pre-norm
transformers, they read the fourth output of the operator. The operators are those of ONNX Runtime
(com.microsoft). It makes the first itself at load, but not behind a sequence of variable length,
and never the third.

For GPUs: on a CPU the fused kernel takes five to six times as long as the two operators
(`benchmarks/fused_operators.py`), and presets for it do the opposite (`residuals.py`).

Refused: a scale or bias that is computed. Left alone, silently: summands that are not provably of
one shape with two or three axes, normalization over several axes, types other than float and
float16. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, int_attribute, rank, same_shape
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.runtime_operators import (
    DOMAIN,
    FLOATS,
    check_operators,
    is_constant_vector,
)

_FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}
_OPERATORS = ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
_SUMS = ("Add", "Sum")
_SUM = 3  # the output that is the sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseSkipNormalization(RewritePass):
    """Fuses residual sums into the normalizations behind them, as ONNX Runtime's Skip operators.

    Attributes:
        operators: The fused operators that may be used.
    """

    name: ClassVar[str] = "fuse-skip-normalization"
    operators: tuple[str, ...] = _OPERATORS

    def __post_init__(self) -> None:
        """Checks the names of the operators."""
        check_operators(self.name, self.operators, _OPERATORS)

    def rules(self) -> Sequence[RewriteRule]:
        """At the sum if others read it too, else at the normalization."""
        norms = [norm for norm, fused in _FUSED.items() if fused in self.operators]
        return [
            *(_SharedSum.rule(sum_, f"skip-of-shared-{sum_.lower()}", norms) for sum_ in _SUMS),
            *(_Normalized.rule(norm, f"skip-{norm.lower()}") for norm in norms),
        ]


class _SharedSum(NodeRule):
    """A sum that others than the normalization read becomes an output of the fused operator."""

    def __init__(self, op_type: str, name: str, norms: Sequence[str]) -> None:
        super().__init__(op_type, name)
        self._norms = norms

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the normalization among the users in the same graph."""
        node = context.root
        if only_user(root) or not _is_residual(node):
            return no_match()
        for norm in root.consumers():
            if norm.op_type not in self._norms or norm.graph is not node.graph:
                continue
            if norm.inputs[0] is root and _fits(norm, root):
                if not _has_constant_vectors(norm):
                    return refuse("the scale or the bias is computed", norm)
                return found(norm=norm)
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, norm: ir.Node) -> ir.Value:
        """The sum; the normalization, which reads it now, is taken over by the other rule."""
        node = root.producer()
        assert node is not None
        outputs = _emit(op, node, norm, 4)
        total: ir.Value = outputs[_SUM]
        outputs[0].type, outputs[0].shape = norm.outputs[0].type, norm.outputs[0].shape
        return total


class _Normalized(NodeRule):
    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Whether it normalizes a sum of its own, or one that a fused operator made for it."""
        norm = context.root
        total = norm.inputs[0]
        fused = producer_of(total, _FUSED[norm.op_type], domain=DOMAIN)
        if fused is not None and total is not None:
            normalized = total.index() == _SUM and _reads_the_same(fused, norm)
            return found(normalized=fused.outputs[0]) if normalized else no_match()
        node = producer_of(total, *_SUMS)
        if node is None or total is None or not only_user(total):
            return no_match()
        if not _is_residual(node) or not _fits(norm, total):
            return no_match()
        if not _has_constant_vectors(norm):
            return refuse("the scale or the bias is computed", norm)
        return found(normalized=node)

    def rewrite(self, op: Any, root: ir.Value, normalized: ir.Value | ir.Node) -> ir.Value:
        """The output of the fused operator."""
        if isinstance(normalized, ir.Value):
            return normalized
        norm = root.producer()
        assert norm is not None
        y: ir.Value = _emit(op, normalized, norm, 1)
        return y


def _is_residual(node: ir.Node) -> bool:
    first, second = node.inputs[0], node.inputs[-1]
    return (
        len(node.inputs) == 2
        and node.outputs[0].dtype in FLOATS
        and rank(first) in (2, 3)
        and same_shape(first, second)
        and constant(first) is None
        and constant(second) is None
    )


def _fits(norm: ir.Node, total: ir.Value) -> bool:
    """True for a normalization over the last axis whose only output is the normalized value."""
    if norm.domain or norm.op_type not in _FUSED or len(norm.outputs) > 1:
        return False
    shape = dims(total)
    last = int_attribute(norm, "axis", -1) in (-1, (rank(total) or 0) - 1)
    return bool(
        last
        and shape
        and all(
            vector is None or (dims(vector) == shape[-1:] and vector.dtype == total.dtype)
            for vector in norm.inputs[1:]
        )
    )


def _has_constant_vectors(norm: ir.Node) -> bool:
    return all(vector is None or constant(vector) is not None for vector in norm.inputs[1:])


def _emit(op: Any, node: ir.Node, norm: ir.Node, outputs: int) -> Any:
    first, second = node.inputs[0], node.inputs[1]
    bias = None
    for operand in (first, second):
        read = _biased(operand)
        if read is not None:
            x, bias = read
            first, second = (x, second) if operand is first else (first, x)
            break
    inputs = [first, second, *_vectors(norm, 1), bias]
    while inputs[-1] is None:
        inputs.pop()
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    return op.op(_FUSED[norm.op_type], *inputs, epsilon=epsilon, _domain=DOMAIN, _outputs=outputs)


def _biased(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """The z and the constant vector c of a sum that nobody else reads."""
    add = producer_of(value, "Add")
    shape = dims(value)
    if add is None or value is None or not shape or not only_user(value):
        return None
    for x, bias in (add.inputs, add.inputs[::-1]):
        if x is not None and bias is not None and is_constant_vector(bias, shape[-1]):
            return (x, bias) if same_shape(x, value) else None
    return None


def _reads_the_same(fused: ir.Node, norm: ir.Node) -> bool:
    """True if the fused operator has the scale, bias and epsilon of the normalization."""
    epsilons = {node.attributes.get_float("epsilon", 1e-5) for node in (norm, fused)}
    return len(epsilons) == 1 and _vectors(norm, 1) == _vectors(fused, 2)


def _vectors(node: ir.Node, start: int) -> list[ir.Value | None]:
    """Scale and, for LayerNormalization, bias, None where there is none."""
    count = 1 if "Simplified" in _FUSED.get(node.op_type, node.op_type) else 2
    return [*node.inputs[start : start + count], None][:count]

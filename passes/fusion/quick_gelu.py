"""Gates of the form x * sigmoid(a x): SiLU and the quick approximation of Gelu.

    Mul(x, Sigmoid(x))            -> QuickGelu(x, alpha=1)
    Mul(x, Sigmoid(Mul(x, a)))    -> QuickGelu(x, alpha=a)

QuickGelu is an operator of ONNX Runtime (com.microsoft), which makes it itself at load where its
optimization is not lowered: on a CPU both forms run equally fast (`benchmarks/fused_operators.py`).

Refused: a sigmoid with other users. Left alone, silently: types other than float and float16.
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.polynomials import number
from onnxopt.passes.fusion.runtime_operators import DOMAIN, FLOATS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseQuickGelu(RewritePass):
    """Fuses x * sigmoid(a x), SiLU among them, into QuickGelu of ONNX Runtime."""

    name: ClassVar[str] = "fuse-quick-gelu"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule, at the product."""
        return [_QuickGelu.rule("Mul", "quick-gelu")]


class _QuickGelu(NodeRule):
    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the sigmoid of a multiple of the other factor."""
        node = context.root
        if root.dtype not in FLOATS:
            return no_match()
        for x, gate in (node.inputs, node.inputs[::-1]):
            sigmoid = producer_of(gate, "Sigmoid")
            alpha = None if sigmoid is None else _multiple(sigmoid.inputs[0], x)
            if alpha is None:
                continue
            if not only_user(gate):
                return refuse("the sigmoid has other users", node)
            return found(parts=(x, alpha))
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Value, float]) -> ir.Value:
        """The operator."""
        x, alpha = parts
        y: ir.Value = op.QuickGelu(x, alpha=alpha, _domain=DOMAIN)
        return y


def _multiple(value: ir.Value | None, x: ir.Value | None) -> float | None:
    """The a for which `value` is a * x."""
    if value is x:
        return 1.0
    product = producer_of(value, "Mul")
    if product is None:
        return None
    for source, factor in (product.inputs, product.inputs[::-1]):
        if source is x:
            return number(factor, x)
    return None

"""Residual additions in a form that ONNX Runtime's CPU provider runs fast.

    LayerNormalization(Add(x, y))  ->  LayerNormalization(Sum(x, y))

Sum of two operands is their addition. ONNX Runtime replaces an Add in front of a LayerNormalization
by com.microsoft SkipLayerNormalization at load, as soon as it knows that both shapes are equal, and
its CPU kernel takes five to six and a half times as long as the two operators (one thread,
1x128x384 and 8x128x384, ONNX Runtime 1.32: `benchmarks/residual_forms.py`); a MiniLM encoder loses
7 % by it. The better a graph's shapes are known, the more often that happens, so tidying alone
would slow it down. It does not look at Sum, whose kernel is as fast as Add's.

The same holds for the normalization that ONNX Runtime itself assembles from ReduceMean, Sub and
their followers. On CUDA the fused kernel pays: presets for that target leave this pass out.

Left alone, silently: operands that are not float or double, ranks other than 3 (which the runtime
does not fuse), a constant operand (a bias), a result that no normalization reads. Subgraphs are
rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, rank, same_shape
from onnxopt.passes.cleanup.single_node import NodeRule, no_match

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumResiduals(RewritePass):
    """Spells the Add before a LayerNormalization as Sum, which ONNX Runtime leaves unfused."""

    name: ClassVar[str] = "sum-residuals"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule, at Add."""
        return [_AddToSum.rule("Add", "add-to-sum")]


class _AddToSum(NodeRule):
    """Add -> Sum where a normalization reads the result."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Whether ONNX Runtime would fuse this Add with the normalization behind it."""
        operands = context.root.inputs
        if (
            root.dtype in _FLOATS
            and rank(root) == 3
            and same_shape(*operands)
            and not any(constant(operand) is not None for operand in operands)
            and _is_normalized(root)
        ):
            return MatchResult()
        return no_match()

    def rewrite(self, op: Any, root: ir.Value) -> ir.Value:
        """The same operands, summed."""
        add = root.producer()
        assert add is not None
        result: ir.Value = op.Sum(*add.inputs)
        return result


def _is_normalized(value: ir.Value) -> bool:
    users = {node.op_type for node in value.consumers() if not node.domain}
    return "LayerNormalization" in users or {"ReduceMean", "Sub"} <= users

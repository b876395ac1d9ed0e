"""Attention as one operator of ONNX Runtime.

    MatMul(Softmax(scale * q k^T + masks), v)     -> MultiHeadAttention(q, k, v, masks)
    the same, causal, with keys and values that   -> GroupQueryAttention(q, k, v, past, masks)
    are appended to a cache

The graph is read in canonical form (`scores.py`, `heads.py`, `grouped.py`, `masks.py`), so that one
matcher serves every exporter. Masks are handed over as one additive bias; all that the graph says
about padding stays in it, and the interface of the graph stays as it is: lengths are computed from
the shapes of inputs, and the caches keep their layout.

Query heads that share a key head become more queries of that head (`shared_keys.py`), so that
MultiHeadAttention serves them too. GroupQueryAttention is causal by itself. It is only used where
the masks provably are as well, so that its own mask hides nothing that the graph shows; its CUDA
kernel takes no mask beside its own.

Rows that are masked out completely: a boolean mask of -inf makes NaN of them, in the graph as in
the fused operator, and where the graph guards against that the result is guarded. A mask of a large
number (-1e4 and below) makes such a row the mean of all values in both.

Refused, each with its reason: scores that are computed otherwise; heads whose number or size is not
known; masks whose shape is not that of the scores; two caches that do not belong together.
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from onnxscript.rewriter.pattern import RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.passes.fusion.attention.operators import GroupQuery, MultiHead, Present
from onnxopt.passes.fusion.runtime_operators import check_operators

_OPERATORS = ("GroupQueryAttention", "MultiHeadAttention")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseAttention(RewritePass):
    """Fuses attention into MultiHeadAttention or GroupQueryAttention of ONNX Runtime.

    Attributes:
        operators: The fused operators that may be used, the preferred one first.
        single_prompts: Use GroupQueryAttention although it cannot run a batch larger than 1 that
            has both several new tokens and a cache; with one new token it runs any batch.
    """

    name: ClassVar[str] = "fuse-attention"
    operators: tuple[str, ...] = _OPERATORS
    single_prompts: bool = False

    def __post_init__(self) -> None:
        """Checks the names of the operators."""
        check_operators(self.name, self.operators, _OPERATORS)

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for each operator, and one for the caches that they append to."""
        rules = {
            "GroupQueryAttention": GroupQuery.rule("group-query-attention", self.single_prompts),
            "MultiHeadAttention": MultiHead.rule("multi-head-attention"),
        }
        return [*(rules[operator] for operator in self.operators), Present.rule()]

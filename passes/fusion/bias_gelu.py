"""The bias in front of a Gelu as an input of it.

    Gelu(Add(x, b))        -> BiasGelu(x, b)
    FastGelu(Add(x, b))    -> FastGelu(x, b)       and the Gelu of opset 20 with approximate=tanh

with b a constant vector over the last axis, as a layer's bias. Both are operators of ONNX Runtime
(com.microsoft), which makes BiasGelu itself at load: on a CPU both forms run equally fast
(`benchmarks/fused_operators.py`).

Refused: a sum with other users. Left alone, silently: other summands, types other than float and
float16. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import dims
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.runtime_operators import DOMAIN, FLOATS, is_constant_vector


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseBiasGelu(RewritePass):
    """Fuses a bias into the Gelu behind it, as BiasGelu or FastGelu of ONNX Runtime."""

    name: ClassVar[str] = "fuse-bias-gelu"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule for each operator that is a Gelu."""
        return [
            _BiasGelu.rule("Gelu", "bias-gelu"),
            _RuntimeBiasGelu.rule("Gelu", "bias-runtime-gelu"),
            _RuntimeBiasGelu.rule("FastGelu", "bias-fast-gelu"),
        ]


class _BiasGelu(NodeRule):
    """At the Gelu of opset 20."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the sum with a constant vector."""
        node = context.root
        add = producer_of(node.inputs[0], "Add")
        if add is None or root.dtype not in FLOATS or has_input(node, 1):
            return no_match()
        for x, bias in (add.inputs, add.inputs[::-1]):
            shape = dims(x)
            if x is None or not shape or not is_constant_vector(bias, shape[-1]):
                continue
            if not only_user(add.outputs[0]):
                return refuse("the sum with the bias has other users", node)
            return found(parts=(x, bias))
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Value, ir.Value]) -> ir.Value:
        """The operator with the bias as its second input."""
        gelu = root.producer()
        assert gelu is not None
        fast = gelu.op_type == "FastGelu" or gelu.attributes.get_string("approximate") == "tanh"
        y: ir.Value = op.op("FastGelu" if fast else "BiasGelu", *parts, _domain=DOMAIN)
        return y


class _RuntimeBiasGelu(_BiasGelu):
    """At an operator of ONNX Runtime."""

    domain = DOMAIN

"""HardSigmoid and HardSwish spelled with Add, Clip, Mul and Div.

    Clip(x + 3, 0, 6) / 6, Clip(x + 3, 0, 6) * (1 / 6)   -> HardSigmoid(x, alpha=1/6, beta=1/2)
    Clip(a * x + b, 0, 1)                                -> HardSigmoid(x, alpha=a, beta=b)
    x * HardSigmoid(x, 1/6, 1/2)                         -> HardSwish(x)               opset >= 14
    x * Clip(x + 3, 0, 6) / 6, any order of the factors  -> HardSwish(x)               opset >= 14
    x * Clip(a * x + b, 0, m) / m                        -> x * HardSigmoid(x, a/m, b/m)

since HardSigmoid(x) = max(0, min(1, alpha * x + beta)) and Clip(y, 0, m) / m = Clip(y / m, 0, 1).
The Clip may also be a Min of a Max (Relu6). Numbers may be off by 3e-5, as 0.16667 is, or by 2e-3
in 16 bit. ONNX Runtime 1.32 runs HardSigmoid 1.4 to 3 times as fast as Add, Clip, Div, and
x * HardSigmoid or HardSwish (which it takes apart again) 1.4 to 2 times as fast as Add, Clip, Mul,
Div.

Refused: intermediate values with other users; factors that do not multiply to one; types other than
float and float16, for which runtimes have no kernels. A Clip(x, 0, 1) alone stays a Clip, which
fuses into a Conv. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import opset_version
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    refuse,
)
from onnxopt.passes.fusion.clips import clamp_of
from onnxopt.passes.fusion.polynomials import Reader, close

_HARD_SWISH = (1.0 / 6.0, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseHardActivations(RewritePass):
    """Fuses HardSigmoid and HardSwish out of Add, Clip, Mul and Div."""

    name: ClassVar[str] = "fuse-hard-activations"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type that can come last."""
        return [
            _HardActivation.rule(op_type, f"hard-activation-{op_type.lower()}")
            for op_type in ("Mul", "Div", "Clip", "Min")
        ]


@dataclasses.dataclass(frozen=True)
class _Gate:
    """factor * clip(alpha * x + beta, 0, 1), times x itself if `swish`."""

    x: ir.Value
    alpha: float
    beta: float
    factor: float
    swish: bool = False


class _GateReader(Reader):
    def gate(self, value: ir.Value | None, x: ir.Value | None = None) -> _Gate | None:
        """Reads a gate of `x`; without `x` one of what lies at its bottom, or a swish."""
        node = None if value is None else value.producer()
        if node is None or node.domain or not self.spend():
            return None
        gate = self._gate(node, x)
        if gate is not None:
            self.nodes[node] = None
        return gate

    def _gate(self, node: ir.Node, x: ir.Value | None) -> _Gate | None:
        if node.op_type == "HardSigmoid":
            source = node.inputs[0]
            if source is None or (x is not None and source is not x):
                return None
            slope, offset = node.attributes.get("alpha"), node.attributes.get("beta")
            return _Gate(
                source,
                0.2 if slope is None else slope.as_float(),
                0.5 if offset is None else offset.as_float(),
                1.0,
            )
        if node.op_type in ("Mul", "Div"):
            return self._product(node, x)
        clamp = clamp_of(node)
        if clamp is None:
            return None
        inner_node = clamp.x.producer()
        inner = clamp_of(inner_node)
        if inner is not None and inner_node is not None:  # Min(Max(y, 0), 6)
            clamp = clamp.after(inner)
            self.nodes[inner_node] = None
        if clamp.low != 0 or not 0 < clamp.high < float("inf"):
            return None
        source = self._bottom(clamp.x) if x is None else x
        coefficients = self.polynomial(clamp.x, source)
        if coefficients is None or len(coefficients) != 2 or coefficients[1] <= 0:
            return None
        beta, alpha = (number / clamp.high for number in coefficients)
        return _Gate(source, alpha, beta, clamp.high)

    def _product(self, node: ir.Node, x: ir.Value | None) -> _Gate | None:
        first, second = node.inputs
        number = self.number(second)
        if number is not None:
            factor = 1.0 / number if node.op_type == "Div" and number else number
        elif node.op_type == "Mul" and (number := self.number(first)) is not None:
            factor, first = number, second
        else:
            # A product inside of a product is no swish: without this, long ones take forever.
            return self._swish(node) if x is None and node.op_type == "Mul" else None
        gate = self.gate(first, x)
        return None if gate is None else dataclasses.replace(gate, factor=gate.factor * factor)

    def _swish(self, node: ir.Node) -> _Gate | None:
        for scaled, value in (node.inputs, node.inputs[::-1]):
            if scaled is None or value is None:
                continue
            for x in (scaled, self._bottom(scaled)):
                before = dict(self.nodes)
                multiple = self.polynomial(scaled, x)
                gate = self.gate(value, x)
                if gate is not None and multiple is not None and multiple[:1] == (0.0,):
                    factor = gate.factor * multiple[-1]
                    if len(multiple) == 2:
                        return dataclasses.replace(gate, factor=factor, swish=True)
                self.nodes = before
        return None

    def _bottom(self, value: ir.Value) -> ir.Value:
        """What remains of `value` below Add, Sub, Mul and Div with one number."""
        while self.spend():
            node = value.producer()
            if node is None or node.domain or node.op_type not in ("Add", "Sub", "Mul", "Div"):
                return value
            first, second = node.inputs[:2]
            if first is not None and self.number(second) is not None:
                value = first
            elif second is not None and self.number(first) is not None and node.op_type != "Div":
                value = second
            else:
                break
        return value


class _HardActivation(NodeRule):
    """A gate, or x times a gate, whose factors multiply to one."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        reader = _GateReader()
        gate = reader.gate(root)
        if gate is None or gate.x.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return no_match()
        reader.nodes.setdefault(node)
        if not reader.keeps_rank(gate.x):
            return no_match()
        if not close([gate.factor], [1.0], gate.x.dtype):
            return no_match()
        if not gate.swish and node.op_type in ("Clip", "Min") and (gate.alpha, gate.beta) == (1, 0):
            return no_match()
        op_set = opset_version(node, context.model) >= 14
        fits = close([gate.alpha, gate.beta], _HARD_SWISH, gate.x.dtype)
        single = not gate.swish or (op_set and fits)
        if not single and [n.op_type for n in reader.nodes if n is not node] == ["HardSigmoid"]:
            return no_match()
        if not reader.closed(node):
            return refuse("a value inside the activation has other users", node)
        return found(parts=(gate, single))

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[_Gate, bool]) -> ir.Value:
        """HardSwish, HardSigmoid or x * HardSigmoid."""
        gate, single = parts
        if gate.swish and single:
            swish: ir.Value = op.HardSwish(gate.x)
            return swish
        y: ir.Value = op.HardSigmoid(gate.x, alpha=gate.alpha, beta=gate.beta)
        if gate.swish:
            y.type, y.shape = root.type, root.shape
            y = op.Mul(gate.x, y)
        return y

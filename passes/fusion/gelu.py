"""Gelu out of its parts, in the exact (Erf) and the approximate (Tanh) form.

    x * (1 + Erf(x / sqrt(2))) / 2                                 -> Gelu(x)            opset >= 20
    x * (1 + Tanh(sqrt(2/pi) * (x + 0.044715 * x^3))) / 2          -> Gelu(x, tanh)      opset >= 20
    x * (1 + Erf(x * 0.7071)) / 2, and other orders, below 20      -> Mul(Mul(x, Add(Erf(Div(x,
                                                                      sqrt(2))), 1)), 0.5)

All spellings of the two formulas are read: any order of the factors, Mul by 0.7071 or Div by
1.4142, Pow(x, 3) or x * x * x, x * (1 + 0.044715 * x^2), the 0.5 at any place. The inner polynomial
of x is compared by its coefficients, which may be off by 3e-5 (2e-3 in 16 bit).

Opsets below 20 have no Gelu. There the exact form is brought into the one spelling that ONNX
Runtime fuses by itself at load time: it knows Div by sqrt(2) and not Mul by 0.7071, and torch
exports the latter. Measured with ONNX Runtime 1.32, one thread, six in a row, milliseconds:

                    spelled with Mul    spelled with Div    Gelu of opset 20
    1 x 16 x 1536         0.20               0.15                0.15
    1 x 128 x 1536        3.0                2.0                 1.8
    1 x 784 x 768         6.0                3.9                 5.0 (noise: the same kernel)

The standard Gelu is as fast as what ONNX Runtime makes of the parts, in the Tanh form two to four
times as fast, since that one is not fused on CPU.

With `operators` the forms become those of ONNX Runtime below opset 20, com.microsoft FastGelu for
Tanh and Gelu for Erf. FastGelu is 2.4 times as fast as the parts on a CPU, Gelu is what the runtime
makes of them at load (`benchmarks/fused_operators.py`).

Refused: intermediate values with other users; below opset 20 a form that is already the best one
there. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, opset_version
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.polynomials import Reader, close
from onnxopt.passes.fusion.runtime_operators import DOMAIN, FLOATS, check_operators

_ERF = (0.0, 1.0 / math.sqrt(2.0))
_TANH = (0.0, math.sqrt(2.0 / math.pi), 0.0, 0.044715 * math.sqrt(2.0 / math.pi))

OPERATORS = ("FastGelu", "Gelu")

# More factors than x, 1 + erf and 1/2 in any nesting are no Gelu.
_MOST_FACTORS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseGelu(RewritePass):
    """Fuses Gelu from opset 20 on, and below writes it as ONNX Runtime recognizes it.

    Attributes:
        operators: Operators of ONNX Runtime to use below opset 20: Gelu, FastGelu or both.
    """

    name: ClassVar[str] = "fuse-gelu"
    operators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the names of the operators."""
        check_operators(self.name, self.operators, OPERATORS)

    def rules(self) -> Sequence[RewriteRule]:
        """The product, or the division by two, that ends the formula."""
        return [
            _Gelu.rule("Mul", "gelu", self.operators),
            _Gelu.rule("Div", "gelu-halved", self.operators),
        ]


class _GeluReader(Reader):
    def factors(
        self, value: ir.Value, room: int, *, root: bool = False
    ) -> tuple[float, list[ir.Value]]:
        """The number and the computed values that `value` is the product of."""
        number = self.number(value)
        if number is not None:
            return number, []
        node = producer_of(value, "Mul", "Div")
        if node is None or room <= 0 or node.inputs[0] is None or node.inputs[1] is None:
            return 1.0, [value]
        if not root and not only_user(value):  # x itself: it is read in two places
            return 1.0, [value]
        if node.op_type == "Div":
            number = self.number(node.inputs[1])
            if not number:
                return 1.0, [value]
            self.nodes[node] = None
            left, values = self.factors(node.inputs[0], room - 1)
            return left / number, values
        self.nodes[node] = None
        left, values = self.factors(node.inputs[0], room - 1)
        right, more = self.factors(node.inputs[1], room - max(1, len(values)))
        return left * right, [*values, *more]

    def one_plus(self, value: ir.Value) -> tuple[float, ir.Node] | None:
        """Reads c * (1 + F) with F an Erf or Tanh node, as (c, F)."""
        node = producer_of(value, "Add")
        if node is None:
            return None
        for function, number in (node.inputs, node.inputs[::-1]):
            summand = self.number(number)
            if summand is None or function is None:
                continue
            before = dict(self.nodes)
            factor, values = self.factors(function, 2)
            inner = producer_of(values[0], "Erf", "Tanh") if len(values) == 1 else None
            if inner is not None and close([factor], [summand], value.dtype):
                self.nodes |= {node: None, inner: None}
                return summand, inner
            self.nodes = before
        return None


class _Gelu(NodeRule):
    """`x * (1 + F(p(x))) / 2` with F = Erf or Tanh and a polynomial p."""

    def __init__(self, op_type: str, name: str, operators: Sequence[str]) -> None:
        super().__init__(op_type, name)
        self._operators = operators

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        read = _read(root)
        if read is None:
            return no_match()
        reader, x, form = read
        version = opset_version(node, context.model)
        contrib = self._contrib(form, x) if version < 20 else None
        if version < 20 and not contrib and (form == "tanh" or _is_what_runtimes_fuse(node, x)):
            return refuse("one Gelu operator needs opset 20 (--opset 20)", node)
        if not reader.keeps_rank(x):
            return no_match()
        if not reader.closed(node):
            return refuse("a value inside the Gelu has other users", node)
        return found(parts=(x, form, version, contrib))

    def _contrib(self, form: str, x: ir.Value) -> str | None:
        """The operator of ONNX Runtime for the form, if it is to be used and takes the type."""
        name = "FastGelu" if form == "tanh" else "Gelu"
        return name if name in self._operators and x.dtype in FLOATS else None

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[ir.Value, str, int, str | None]
    ) -> ir.Value:
        """Gelu, or the spelling of it that ONNX Runtime fuses."""
        x, form, version, contrib = parts
        y: ir.Value
        if contrib:
            y = op.op(contrib, x, _domain=DOMAIN)
            return y
        if version >= 20:
            y = op.Gelu(x, approximate=form) if form == "tanh" else op.Gelu(x)
            return y
        dtype = x.dtype
        assert dtype is not None
        numbers = {"sqrt_2": math.sqrt(2.0), "one": 1.0, "half": 0.5}
        root_2, one, half = (
            op.initializer(ir.Tensor(np.asarray(number).astype(dtype.numpy()), dtype=dtype), name)
            for name, number in ((f"{root.name}_{key}", item) for key, item in numbers.items())
        )
        steps = [op.Div(x, root_2)]
        steps.append(op.Erf(steps[-1]))
        steps.append(op.Add(steps[-1], one))
        steps.append(op.Mul(x, steps[-1]))
        for step in steps:
            step.type, step.shape = root.type, root.shape
        y = op.Mul(steps[-1], half)
        return y


def _read(root: ir.Value) -> tuple[_GeluReader, ir.Value, str] | None:
    """The reader with the nodes of the Gelu that `root` is, its x and its form."""
    reader = _GeluReader()
    factor, values = reader.factors(root, _MOST_FACTORS, root=True)
    if len(values) != 2:
        return None
    for x, gate in (values, values[::-1]):
        plus = reader.one_plus(gate)
        if plus is None or x.dtype is None:
            continue
        scale, function = plus
        # x may itself have been read through: 0.5 * (2 * z) * ... has x = z and factor 1.
        coefficients = reader.polynomial(function.inputs[0], x)
        form, expected = ("none", _ERF) if function.op_type == "Erf" else ("tanh", _TANH)
        if coefficients is None or not close(coefficients, expected, x.dtype):
            return None
        return (reader, x, form) if close([factor * scale], [0.5], x.dtype) else None
    return None


def _is_what_runtimes_fuse(root: ir.Node, x: ir.Value) -> bool:
    """True for (x * (1 + Erf(x / r))) * 0.5 and (x * 0.5) * (1 + Erf(x / r)), in any order."""
    for first, second in (root.inputs, root.inputs[::-1]):
        if constant(second) is not None:
            inner = producer_of(first, "Mul")
            if inner is None or x not in inner.inputs:
                return False
            gate = inner.inputs[1] if inner.inputs[0] is x else inner.inputs[0]
            return root.op_type == "Mul" and _erf_of_quotient(gate)
        if _erf_of_quotient(first):
            halved = producer_of(second, "Mul")
            return halved is not None and x in halved.inputs
    return False


def _erf_of_quotient(gate: ir.Value | None) -> bool:
    add = producer_of(gate, "Add")
    if add is None:
        return False
    erf = producer_of(add.inputs[0], "Erf") or producer_of(add.inputs[1], "Erf")
    return erf is not None and producer_of(erf.inputs[0], "Div") is not None

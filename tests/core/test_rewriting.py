"""The worklist driver: indexing, replacement, graph outputs, subgraphs, termination, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model
from onnxscript.rewriter.pattern import MatchResult, RewriteRule, RewriteRuleClassBase

from onnxopt.core.passes import RewritePass
from onnxopt.core.pipeline import Pipeline, Repeat


class _DoubleNeg(RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(x))

    def check(self, context: Any, x: ir.Value) -> MatchResult:
        result = MatchResult()
        if x.name == "forbidden":
            return result.fail("x is forbidden", x)
        return result

    def rewrite(self, op: Any, x: ir.Value) -> ir.Value:
        return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class CancelNeg(RewritePass):
    name: ClassVar[str] = "cancel-neg"

    def rules(self) -> Sequence[RewriteRule]:
        return [_DoubleNeg.rule("double-neg", remove_nodes=False)]


class _Swap(RewriteRuleClassBase):
    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.Add(x, y)

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value) -> Any:
        return op.Add(y, x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwapForever(RewritePass):
    name: ClassVar[str] = "swap-forever"

    def rules(self) -> Sequence[RewriteRule]:
        return [_Swap.rule("swap")]


def test_chain_of_four_cancels_when_rules_feed_each_other() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y)
        { a = Neg(x) b = Neg(a) c = Neg(b) d = Neg(c) y = Relu(d) }"""
    )
    assert_rewrites(CancelNeg(), model, expect=["Relu"], rewrites=2, rtol=0, atol=0)


def test_producer_takes_the_name_when_replaced_value_is_graph_output() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) y = Neg(b) }")
    assert_rewrites(CancelNeg(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


def test_identity_is_inserted_when_graph_input_becomes_graph_output() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { b = Neg(x) y = Neg(b) }")
    assert_rewrites(CancelNeg(), model, expect=["Identity"], rewrites=1, rtol=0, atol=0)


def test_middle_stays_when_it_is_a_graph_output_and_both_outputs_keep_their_names() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, float[N] b) { a = Relu(x) b = Neg(a) y = Neg(b) }"
    )
    assert_rewrites(CancelNeg(), model, expect=["Relu", "Neg"], rewrites=1, rtol=0, atol=0)


def test_one_value_serves_two_outputs_when_both_become_equal() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y, float[N] z)
        { a = Relu(x) b = Neg(a) y = Neg(b) c = Neg(a) z = Neg(c) }"""
    )
    assert_rewrites(CancelNeg(), model, expect=["Relu", "Identity"], rewrites=2, rtol=0, atol=0)


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) {
            y = If (c) <
                then_branch = t () => (float[N] p) { u = Neg(x) v = Neg(u) p = Relu(v) },
                else_branch = e () => (float[N] q) { w = Neg(x) r = Neg(w) q = Identity(r) }
            >
        }"""
    )
    assert_rewrites(CancelNeg(), model, expect=["If"], rewrites=2, rtol=0, atol=0)


def test_reason_is_kept_when_a_check_refuses() -> None:
    model = parse_model(
        "g (float[N] forbidden) => (float[N] y) { a = Neg(forbidden) b = Neg(a) y = Relu(b) }"
    )
    assert_refuses(CancelNeg(), model, "x is forbidden")


def test_driver_stops_when_a_rule_never_ends() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { y = Add(x, x) }")
    result = SwapForever()(model)
    assert "undo each other" in result.refusals[-1].reason
    assert op_types(model) == ["Add"]


def test_overridable_initializer_is_no_constant_when_it_is_a_graph_input() -> None:
    model = parse_model(
        "g (float[N] x, float[1] w) => (float[N] y) <float[1] w = {1.0}> { y = Add(x, w) }"
    )
    seen: list[object] = []

    class Look(_Swap):
        def check(self, context: Any, x: ir.Value, y: ir.Value) -> MatchResult:
            seen.append(y.const_value)
            return MatchResult().fail("only looking")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LookPass(RewritePass):
        name: ClassVar[str] = "look"

        def rules(self) -> Sequence[RewriteRule]:
            return [Look.rule("look")]

    LookPass()(model)
    assert seen == [None]
    assert model.graph.initializers["w"].const_value is not None


def attempts(text: str, expect: Sequence[str]) -> int:
    """How often the double-neg rule is tried on a graph: costs are counted, never timed."""
    model = parse_model(text)
    tried = 0
    rule = CancelNeg().rules()[0]
    original = rule.try_rewrite

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        tried += 1
        return original(*args, **kwargs)

    rule.try_rewrite = counting

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Counting(RewritePass):
        name: ClassVar[str] = "counting"

        def rules(self) -> Sequence[RewriteRule]:
            return [rule]

    Counting()(model)
    assert op_types(model) == list(expect)
    return tried


def chain(count: int) -> int:
    body = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(count))
    text = f"g (float[N] v0) => (float[N] y) {{ {body} y = Relu(v{count}) }}"
    return attempts(text, ["Relu"])


def hub(count: int) -> int:
    body = " ".join(f"n{i} = Neg(q) m{i} = Neg(n{i}) s{i} = Sin(m{i})" for i in range(count))
    names = ", ".join(f"s{i}" for i in range(count))
    text = f"g (float[N] x) => (float[N] y) {{ q = Exp(x) {body} y = Sum({names}) }}"
    return attempts(text, ["Exp", *["Sin"] * count, "Sum"])


def test_cost_is_linear_when_the_graph_grows() -> None:
    assert chain(1000) <= 11 * chain(100)


def test_cost_is_linear_when_one_value_has_many_users() -> None:
    assert hub(200) <= 11 * hub(20)


def test_pipeline_nests_when_run_by_onnx_ir() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { a = Neg(x) b = Neg(a) y = Relu(b) }")
    result = ir.passes.Sequential(Pipeline([Repeat((CancelNeg(),))]), CancelNeg())(model)
    assert result.modified
    assert op_types(model) == ["Relu"]


@pytest.mark.parametrize("rounds", [1, 3])
def test_refusal_is_recorded_when_a_group_never_settles(rounds: int) -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { y = Add(x, x) }")
    result = Pipeline([Repeat((SwapForever(),), limit=rounds)])(model)
    assert any(f"after {rounds} rounds" in refusal.reason for refusal in result.refusals)

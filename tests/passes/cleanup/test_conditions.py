"""InlineConstantIf: branches move out, names stay unique, dead branches are never looked at."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.conditions import InlineConstantIf

_TRUE = {"c": np.array(True)}
_FALSE = {"c": np.array(False)}

_IF = """g (float[N,2] x) => (float[N,2] y) {{
    a = Neg(x)
    z = If (c) <
        then_branch = t () => (float[N,2] p) {{ {then} }},
        else_branch = e () => (float[N,2] q) {{ {other} }}
    >
    y = Abs(z)
}}"""


def _model(
    then: str = "p = Exp(a)", other: str = "q = Relu(a)", condition: bool = True
) -> ir.Model:
    return parse_model(_IF.format(then=then, other=other), {"c": np.array(condition)})


@pytest.mark.parametrize(("condition", "op"), [(True, "Exp"), (False, "Relu")])
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_branch_moves_out_when_the_condition_is_an_initializer(
    condition: bool, op: str, opset: int
) -> None:
    model = parse_model(
        _IF.format(then="p = Exp(a)", other="q = Relu(a)"), {"c": np.array(condition)}, opset=opset
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Neg", op, "Abs"], rewrites={"constant-if": 1},
        rtol=0, atol=0,
    )  # fmt: skip


def test_branch_moves_out_when_the_condition_is_a_constant_of_shape_1() -> None:
    model = parse_model(
        _IF.format(then="p = Exp(a)", other="q = Relu(a)").replace(
            "a = Neg(x)", "a = Neg(x) c = Constant<value = bool[1] {1}>()"
        )
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Neg", "Constant", "Exp", "Abs"], rewrites=1,
        rtol=0, atol=0,
    )  # fmt: skip


def test_if_goes_when_both_branches_pass_the_same_value_through() -> None:
    model = parse_model(
        _IF.format(then="p = Identity(a)", other="q = Identity(a)").replace(
            "(float[N,2] x)", "(float[N,2] x, bool c)"
        )
    )
    assert_rewrites(
        InlineConstantIf(),
        model,
        expect=["Neg", "Identity", "Abs"],
        rewrites={"same-branches": 1},
        rtol=0,
        atol=0,
    )


def test_if_stays_when_its_branches_pass_different_values_through() -> None:
    model = parse_model(
        _IF.format(then="p = Identity(a)", other="q = Identity(x)").replace(
            "(float[N,2] x)", "(float[N,2] x, bool c)"
        )
    )
    assert not InlineConstantIf()(model).modified


def test_initializers_of_the_branch_move_too() -> None:
    model = parse_model(
        """g (float[N,2] x) => (float[N,2] y) <bool c = {1}, float[2] w = {1, 2}> {
            m = Mul(x, w)
            y = If (c) <
                then_branch = t () => (float[N,2] p) <float[2] u = {3, 4}> { p = Add(m, u) },
                else_branch = e () => (float[N,2] q) <float[2] u = {5, 6}> { q = Sub(m, u) }
            >
        }"""
    )
    assert_rewrites(InlineConstantIf(), model, expect=["Mul", "Add"], rewrites=1, rtol=0, atol=0)
    np.testing.assert_array_equal(model.graph.initializers["u"].const_value.numpy(), [3, 4])


def test_graph_outputs_keep_their_names_when_a_branch_makes_them() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y, float[N] z) {
            y, z = If (c) <
                then_branch = t () => (float[N] p, float[N] r) { p = Exp(x) r = Neg(p) },
                else_branch = e () => (float[N] q, float[N] s) { q = Exp(x) s = Abs(q) }
            >
        }""",
        _TRUE,
    )
    assert_rewrites(InlineConstantIf(), model, expect=["Exp", "Neg"], rewrites=1, rtol=0, atol=0)


def test_identity_carries_the_output_when_the_branch_returns_an_initializer() -> None:
    model = parse_model(
        """g (float[N] x) => (float[2] y) {
            y = If (c) <
                then_branch = t () => (float[2] p) <float[2] p = {1, 2}> { u = Neg(x) },
                else_branch = e () => (float[2] q) <float[2] q = {3, 4}> { v = Neg(x) }
            >
        }""",
        _FALSE,
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Neg", "Identity"], rewrites=1, rtol=0, atol=0
    )


def test_names_become_unique_when_other_subgraphs_repeat_them() -> None:
    model = parse_model(
        """g (float[N] x, bool d) => (float[N] y) {
            a = If (c) <
                then_branch = t () => (float[N] p) { m = Exp(x) p = Neg(m) },
                else_branch = e () => (float[N] q) { m = Abs(x) q = Neg(m) }
            >
            y = If (d) <
                then_branch = t2 () => (float[N] p) { m = Exp(a) p = Neg(m) },
                else_branch = e2 () => (float[N] q) { m = Abs(a) q = Neg(m) }
            >
        }""",
        _TRUE,
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Exp", "Neg", "If"], rewrites=1, rtol=0, atol=0
    )
    assert "m" not in {value.name for node in model.graph for value in node.outputs}


def test_names_stay_when_only_the_dead_branch_repeats_them() -> None:
    model = _model(then="m = Exp(a) p = Neg(m)", other="m = Abs(a) q = Neg(m)")
    assert_rewrites(InlineConstantIf(), model, expect=None, rewrites=1, rtol=0, atol=0)
    assert "m" in {value.name for node in model.graph for value in node.outputs}


def test_nested_ifs_move_all_the_way_and_dead_ones_are_not_counted() -> None:
    inner = """{out} = If (c) <
        then_branch = t{n} () => (float[N,2] p{n}) {{ p{n} = Exp(a) }},
        else_branch = e{n} () => (float[N,2] q{n}) {{ q{n} = Relu(a) }}
    >"""
    model = _model(then=inner.format(out="p", n=1), other=inner.format(out="q", n=2))
    assert_rewrites(
        InlineConstantIf(), model, expect=["Neg", "Exp", "Abs"], rewrites=2, rtol=0, atol=0
    )


def test_if_inside_the_body_of_a_loop_is_inlined_there() -> None:
    model = parse_model(
        """g (float[2] x, int64 n) => (float[2] y) <bool t = {1}, bool c = {0}> {
            y = Loop (n, t, x) <body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w) {
                k2 = Identity(k)
                w = If (c) <
                    then_branch = t1 () => (float[2] p) { p = Exp(v) },
                    else_branch = e1 () => (float[2] q) { q = Add(v, x) }
                >
            }>
        }"""
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Loop"], rewrites=1, rtol=0, atol=0,
        feeds={"x": np.ones(2, np.float32), "n": np.array(3)},
    )  # fmt: skip


def test_shape_comes_from_the_if_when_the_branch_does_not_know_it() -> None:
    model = _model()
    branch_output = model.graph[1].attributes["then_branch"].as_graph()[0].outputs[0]
    branch_output.shape = None
    model.graph[1].outputs[0].shape = ir.Shape(["N", 2])
    InlineConstantIf()(model)
    assert str(model.graph[1].outputs[0].shape) == "[N,2]"


def test_condition_is_refused_when_the_caller_can_replace_it() -> None:
    text = _IF.format(then="p = Exp(a)", other="q = Relu(a)")
    text = text.replace("g (float[N,2] x)", "g (float[N,2] x, bool c)").replace(
        "=> (float[N,2] y) {", "=> (float[N,2] y) <bool c = {1}> {", 1
    )
    assert_refuses(InlineConstantIf(), parse_model(text), "also a graph input")


def test_if_stays_when_the_condition_is_computed() -> None:
    model = parse_model(
        _IF.format(then="p = Exp(a)", other="q = Relu(a)").replace(
            "(float[N,2] x)", "(float[N,2] x, bool c)"
        )
    )
    assert_rewrites(
        InlineConstantIf(), model, expect=["Neg", "If", "Abs"], rewrites=0, rtol=0, atol=0
    )


_LOOP = """g (float[2] x, int64 m, bool k0) => (float[2] y{outputs}) {{
    f, s = Loop ({trips}, {condition}, x) <
        body = b (int64 i, bool k, float[2] v) => (bool k2, float[2] w, float[2] o)
            {{ k2 = Identity(k) w = Neg(v) o = Exp(v) }}>
    y = Abs(f)
    {tail}
}}"""


@pytest.mark.parametrize(("trips", "condition"), [("zero", "k0"), ("m", "no"), ("zero", "no")])
def test_loop_goes_when_it_never_runs(trips: str, condition: str) -> None:
    known = {"zero": np.array(0, np.int64), "no": np.array(False)}
    model = parse_model(
        _LOOP.format(outputs="", tail="", trips=trips, condition=condition),
        {name: array for name, array in known.items() if name in (trips, condition)},
    )
    assert_rewrites(
        InlineConstantIf(),
        model,
        expect=["Abs"],
        rewrites={"zero-trip-loop": 1},
        rtol=0,
        atol=0,
        feeds={"x": np.ones(2, np.float32), "m": np.array(3), "k0": np.array(True)},
    )


def test_loop_is_refused_when_its_empty_scan_output_is_used() -> None:
    model = parse_model(
        _LOOP.format(outputs=", float[S,2] z", tail="z = Neg(s)", trips="zero", condition="k0"),
        {"zero": np.array(0, np.int64)},
    )
    assert_refuses(InlineConstantIf(), model, "empty scan outputs")


def test_loop_stays_when_it_runs_once() -> None:
    model = parse_model(
        _LOOP.format(outputs="", tail="", trips="one", condition="k0"),
        {"one": np.array(1, np.int64)},
    )
    assert not InlineConstantIf()(model).modified

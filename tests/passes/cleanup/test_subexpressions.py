"""EliminateCommonSubexpressions: what is the same, what only looks so, and where it may be read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.subexpressions import EliminateCommonSubexpressions


@pytest.mark.parametrize(("dtype", "opset"), [("float", 13), ("float", 18), ("double", 18)])
def test_chain_merges_in_one_sweep_when_it_occurs_twice(dtype: str, opset: int) -> None:
    model = parse_model(
        f"""g ({dtype}[N,3] x) => ({dtype}[N,3] y) {{
            a = Exp(x) b = Exp(x) c = Abs(a) d = Abs(b) e = Neg(c) f = Neg(d) y = Add(e, f)
        }}""",
        opset=opset,
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Exp", "Abs", "Neg", "Add"],
        rewrites=3, rtol=0, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_operands_may_be_swapped_when_the_operator_commutes(op: str) -> None:
    model = parse_model(
        f"""g (float[N] x, float[N] z) => (float[N] y)
        {{ a = {op}(x, z) b = {op}(z, x) y = Sub(a, b) }}"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=[op, "Sub"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = Sub(x, z) b = Sub(z, x)",
        "a = Max(x, z) b = Max(z, x)",
        "a = LeakyRelu<alpha = 0.1>(x) b = LeakyRelu<alpha = 0.2>(x)",
        "a = LeakyRelu<alpha = 0.0>(x) b = LeakyRelu<alpha = -0.0>(x)",
        "a = Exp(x) b = Abs(x)",
    ],
)
def test_both_stay_when_they_differ(body: str) -> None:
    model = parse_model(f"g (float[N] x, float[N] z) => (float[N] y) {{ {body} y = Sub(a, b) }}")
    assert_rewrites(EliminateCommonSubexpressions(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_constants_merge_when_their_bits_agree() -> None:
    model = parse_model(
        """g (float[N,2] x) => (float[N,2] y) {
            c1 = Constant<value = float[2] {0.0, 1.0}>()
            c2 = Constant<value = float[2] {0.0, 1.0}>()
            c3 = Constant<value = float[2] {-0.0, 1.0}>()
            c4 = Constant<value = float[1,2] {0.0, 1.0}>()
            a = Add(x, c1) b = Add(x, c2) c = Add(x, c3) d = Add(x, c4)
            y = Sum(a, b, c, d)
        }"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(),
        model,
        expect=["Constant", "Constant", "Constant", "Add", "Add", "Add", "Sum"],
        rewrites=2,
        rtol=0,
        atol=0,
    )


def test_users_of_one_weight_merge_when_it_is_shared() -> None:
    model = parse_model(
        "g (float[N,2] x) => (float[N,2] y) { a = Add(x, w) b = Add(x, w) y = Mul(a, b) }",
        {"w": np.ones(2, np.float32)},
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Add", "Mul"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("outputs", "expect", "rewrites"),
    [
        ("float[N] a, float[N] y", ["Exp", "Abs", "Add"], 1),
        ("float[N] b, float[N] y", ["Exp", "Abs", "Add"], 1),
        ("float[N] a, float[N] b", ["Exp", "Identity", "Abs", "Add"], 1),
    ],
    ids=["first", "second", "both"],
)
def test_graph_outputs_keep_their_names_when_merged(
    outputs: str, expect: list[str], rewrites: int
) -> None:
    model = parse_model(
        f"g (float[N] x) => ({outputs}) {{ a = Exp(x) b = Exp(x) c = Abs(b) y = Add(a, c) }}"
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=expect, rewrites=rewrites, rtol=0, atol=0
    )


def test_identities_stay_when_two_outputs_need_a_name_each() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, float[N] z) { y = Identity(x) z = Identity(x) }"
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Identity", "Identity"],
        rewrites=0, rtol=0, atol=0,
    )  # fmt: skip


def test_all_outputs_are_replaced_when_a_node_has_several() -> None:
    model = parse_model(
        """g (float[2,6] x) => (float[2,2] y, int64[2,2] j) {
            k = Constant<value_ints = [2]>()
            v, i = TopK(x, k) w, j = TopK(x, k) y = Add(v, w) h = Neg(i)
        }"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Constant", "TopK", "Add", "Neg"],
        rewrites=1, rtol=0, atol=0,
    )  # fmt: skip


_IF = """g (float[N] x, bool c) => (float[N] y) {{
    {before}
    z = If (c) <
        then_branch = t () => (float[N] p) {{ b = Exp(x) p = Neg(b) }},
        else_branch = e () => (float[N] q) {{ d = Exp(x) e2 = Exp(x) q = Add(d, e2) }}
    >
    {after}
}}"""


def test_branch_reads_the_outer_result_when_it_is_there_before() -> None:
    model = parse_model(_IF.format(before="a = Exp(x)", after="y = Add(a, z)"))
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Exp", "If", "Add"],
        rewrites=3, rtol=0, atol=0,
    )  # fmt: skip


def test_outer_graph_never_reads_a_branch_when_the_branch_computes_first() -> None:
    model = parse_model(_IF.format(before="", after="a = Exp(x) y = Add(a, z)"))
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["If", "Exp", "Add"],
        rewrites=1, rtol=0, atol=0,
    )  # fmt: skip


def test_branch_output_goes_through_an_identity_when_the_outer_graph_computes_it() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) {
            a = Exp(x)
            z = If (c) <
                then_branch = t () => (float[N] p) { p = Exp(x) },
                else_branch = e () => (float[N] q) { q = Neg(x) }
            >
            y = Add(a, z)
        }"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Exp", "If", "Add"],
        rewrites=1, rtol=0, atol=0,
    )  # fmt: skip


def test_constants_of_a_branch_stay_there_when_the_outer_graph_has_the_same() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) {
            one = Constant<value_float = 1.0>() a = Add(x, one)
            z = If (c) <
                then_branch = t () => (float[N] p)
                    { uno = Constant<value_float = 1.0>() p = Mul(x, uno) },
                else_branch = e () => (float[N] q) { q = Neg(x) }
            >
            y = Add(a, z)
        }"""
    )
    assert_rewrites(EliminateCommonSubexpressions(), model, expect=None, rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("RandomNormalLike(x)", "is random"),
        ("Bernoulli(x)", "is random"),
        ("Dropout(x, r, t)", "training mode"),
        ("my.domain.Op(x)", "domain 'my.domain' may not be pure"),
    ],
)
def test_reason_is_given_when_equal_nodes_may_compute_different_things(
    op: str, reason: str
) -> None:
    model = parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18, "my.domain" : 1]>
        g (float[N] x, float r, bool t) => (float[N] y) {{ a = {op} b = {op} y = Add(a, b) }}"""
    )
    assert_refuses(EliminateCommonSubexpressions(), model, reason)


@pytest.mark.parametrize("inputs", ["x", "x, r", "x, r, t"])
def test_dropout_merges_when_it_does_not_train(inputs: str) -> None:
    model = parse_model(
        f"""g (float[N] x) => (float[N] y) <float r = {{0.5}}, bool t = {{0}}>
        {{ a = Dropout({inputs}) b = Dropout({inputs}) y = Add(a, b) }}"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Dropout", "Add"],
        rewrites=1, rtol=0, atol=0,
    )  # fmt: skip


def test_nodes_with_subgraphs_stay_when_they_look_the_same() -> None:
    branch = """If (c) < then_branch = t () => (float[N] p) { p = Neg(x) },
        else_branch = e () => (float[N] q) { q = Abs(x) } >"""
    model = parse_model(
        f"g (float[N] x, bool c) => (float[N] y) {{ a = {branch} b = {branch} y = Add(a, b) }}"
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["If", "If", "Add"],
        rewrites=0, rtol=0, atol=0,
    )  # fmt: skip


def test_outputs_in_use_count_when_one_node_leaves_some_out() -> None:
    model = parse_model(
        """g (float[1,1,8] x) => (float[1,1,4] y, int64[1,1,4] i) {
            a = MaxPool<kernel_shape=[2], strides=[2]>(x)
            b, i = MaxPool<kernel_shape=[2], strides=[2]>(x) y = Add(a, b)
        }"""
    )
    assert_rewrites(EliminateCommonSubexpressions(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_functions_are_swept_on_their_own() -> None:
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "f" : 1]>
        g (float[N] x) => (float[N] y) { a = Exp(x) b = f.Twice(x) y = Add(a, b) }
        <domain: "f", opset_import: ["" : 18]>
        Twice (p) => (r) { u = Exp(p) v = Exp(p) r = Add(u, v) }"""
    )
    assert_rewrites(
        EliminateCommonSubexpressions(), model, expect=["Exp", "f.Twice", "Add"],
        rewrites=1, rtol=0, atol=0,
    )  # fmt: skip


def test_large_constants_are_not_compared() -> None:
    tensor = ir.tensor(np.ones(5000, np.float32))
    model = parse_model("g (float[1] x) => (float[5000] y) { y = Identity(x) }")
    x = model.graph.inputs[0]
    model.graph.remove(model.graph[0], safe=False)
    one = ir.node("Constant", [], {"value": tensor})
    two = ir.node("Constant", [], {"value": tensor})
    model.graph.extend([one, two, ir.node("Sum", [x, one.outputs[0], two.outputs[0]])])
    model.graph.outputs[0] = model.graph[-1].outputs[0]
    assert not EliminateCommonSubexpressions()(model).modified
    assert op_types(model) == ["Constant", "Constant", "Sum"]

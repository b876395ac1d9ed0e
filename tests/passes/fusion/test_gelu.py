"""FuseGelu: all spellings of both formulas, with and without the operator of opset 20."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.fusion.gelu import FuseGelu

NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "r2": 1.41421, "i2": 0.70710678,
    "k": 0.7978845608, "c": 0.044715, "wrong": 1.7,
}  # fmt: skip


def model_of(body: str, opset: int, name: str = "float", output: str = "") -> ir.Model:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[name]
    used = {word: np.array(NUMBERS[word], dtype) for word in sorted(words) if word in NUMBERS}
    text = f"g ({name}[N,9] x) => ({name}[N,9] y{output}) {{ {body} }}"
    model = parse_model(text, used, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


PLAIN = [  # what ONNX Runtime recognizes
    "a = Div(x, r2) e = Erf(a) d = Add(e, one) m = Mul(x, d) y = Mul(m, half)",
    "a = Div(x, r2) e = Erf(a) d = Add(one, e) h = Mul(half, x) y = Mul(d, h)",
]
OTHER = [
    "a = Mul(x, i2) e = Erf(a) d = Add(e, one) m = Mul(x, d) y = Mul(half, m)",
    "a = Mul(i2, x) e = Erf(a) d = Add(e, one) h = Mul(x, half) y = Mul(h, d)",
    "a = Div(x, r2) e = Erf(a) d = Add(e, one) h = Mul(d, half) y = Mul(x, h)",
    "a = Mul(x, i2) e = Erf(a) m = Mul(e, half) d = Add(half, m) y = Mul(d, x)",
    "a = Mul(x, i2) e = Erf(a) d = Add(e, one) m = Mul(d, x) y = Div(m, two)",
]
TANH = [
    "p = Pow(x, three) q = Mul(p, c) s = Add(x, q) u = Mul(s, k) t = Tanh(u) d = Add(t, one) "
    "h = Mul(x, half) y = Mul(h, d)",
    "p = Mul(x, x) r = Mul(p, x) q = Mul(c, r) s = Add(q, x) u = Mul(k, s) t = Tanh(u) "
    "d = Add(one, t) h = Mul(d, half) y = Mul(x, h)",
    "p = Mul(x, x) q = Mul(p, c) s = Add(q, one) v = Mul(x, k) u = Mul(v, s) t = Tanh(u) "
    "d = Add(t, one) h = Mul(x, d) y = Mul(half, h)",
]


@pytest.mark.parametrize("body", [*PLAIN, *OTHER, *TANH])
def test_gelu_is_one_node_when_the_opset_has_it(body: str) -> None:
    model = model_of(body, 20)
    assert_rewrites(FuseGelu(), model, expect=["Gelu"], rewrites=1, rtol=1e-4, atol=1e-5)
    form = model.graph[0].attributes.get_string("approximate", "none")
    assert form == ("tanh" if "Tanh" in body else "none")


@pytest.mark.parametrize("body", OTHER)
@pytest.mark.parametrize("opset", [9, 17])
def test_gelu_is_respelled_when_the_opset_has_no_operator(body: str, opset: int) -> None:
    model = model_of(body, opset)
    expect = ["Div", "Erf", "Add", "Mul", "Mul"]
    assert_rewrites(FuseGelu(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("body", [*PLAIN, *TANH])
def test_gelu_stays_with_a_hint_when_the_opset_has_no_operator(body: str) -> None:
    assert_refuses(FuseGelu(), model_of(body, 17), "needs opset 20 (--opset 20)")


@pytest.mark.parametrize("body", [*PLAIN, *OTHER, *TANH])
def test_gelu_is_one_node_of_the_runtime_when_that_may_be_used(body: str) -> None:
    expect = ["com.microsoft.FastGelu" if "Tanh" in body else "com.microsoft.Gelu"]
    pass_ = FuseGelu(operators=("FastGelu", "Gelu"))
    assert_rewrites(pass_, model_of(body, 17), expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_double_stays_when_the_operator_of_the_runtime_has_no_kernel_for_it() -> None:
    pass_ = FuseGelu(operators=("FastGelu",))
    assert_refuses(pass_, model_of(TANH[0], 17, "double"), "needs opset 20")


def test_erf_stays_when_only_the_other_operator_may_be_used() -> None:
    assert_refuses(FuseGelu(operators=("FastGelu",)), model_of(PLAIN[0], 17), "needs opset 20")


def test_unknown_operators_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'QuickGelu' is none of FastGelu, Gelu"):
        FuseGelu(operators=("QuickGelu",))


@pytest.mark.parametrize("body", [PLAIN[0], OTHER[3], TANH[0]])
def test_middle_stays_when_it_is_a_graph_output(body: str) -> None:
    assert_refuses(FuseGelu(), model_of(body, 20, output=", float[N,9] d"), "other users")


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, wrong) e = Erf(a) d = Add(e, one) m = Mul(x, d) y = Mul(m, half)",
        "a = Div(x, r2) e = Erf(a) d = Add(e, two) m = Mul(x, d) y = Mul(m, half)",
        "a = Div(x, r2) e = Erf(a) d = Add(e, one) m = Mul(x, d) y = Mul(m, three)",
        "a = Div(x, r2) e = Erf(a) d = Add(e, one) m = Mul(a, d) y = Mul(m, half)",
        "s = Sigmoid(x) m = Mul(x, s) y = Mul(m, half)",
    ],
)
def test_nothing_is_fused_when_the_formula_differs(body: str) -> None:
    result = FuseGelu()(model_of(body, 20))
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("gated", [True, False])
def test_gelu_is_found_when_its_input_or_its_user_is_a_product(gated: bool) -> None:
    body = OTHER[0].replace("(x", "(z").replace(" x", " z")
    body = body.replace("y =", "g =") + (" y = Mul(g, x)" if gated else " y = Relu(g)")
    model = model_of("z = Mul(x, x) " + body, 20)
    expect = ["Mul", "Gelu", "Mul" if gated else "Relu"]
    assert_rewrites(FuseGelu(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_float16_is_fused() -> None:
    model = model_of(PLAIN[0], 20, "float16")
    assert_rewrites(FuseGelu(), model, expect=["Gelu"], rewrites=1, rtol=1e-2, atol=1e-2)


def test_double_is_fused() -> None:
    model = model_of(TANH[0], 20, "double")
    assert_rewrites(FuseGelu(), model, expect=["Gelu"], rewrites=1, rtol=1e-8, atol=1e-8)


def test_constants_may_not_add_an_axis() -> None:
    model = parse_model(
        """g (float[9] x) => (float[1,9] y) <float r = {1.41421356}, float o = {1}>
        { a = Div(x, r) e = Erf(a) d = Add(e, o) m = Mul(x, d) y = Mul(m, half) }""",
        {"half": np.full((1, 1), 0.5, np.float32)},
        opset=20,
    )
    assert not FuseGelu()(model).modified


def test_subgraph_is_rewritten_and_constants_may_be_shared() -> None:
    model = parse_model(
        """g (float[N,9] x, bool k) => (float[N,9] y)
        <float r = {1.41421356}, float o = {1}, float h = {0.5}> {
            y = If (k) <
                then_branch = t () => (float[N,9] p) {
                    a = Div(x, r) e = Erf(a) d = Add(e, o) m = Mul(x, d) p = Mul(m, h)
                },
                else_branch = e () => (float[N,9] q) { q = Mul(x, h) }
            >
        }""",
        opset=20,
    )
    assert_rewrites(FuseGelu(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)


def test_sums_that_double_take_no_time() -> None:
    """A value that is used twice would be read 2^40 times if nobody remembered it."""
    body = "v0 = Add(x, x) " + " ".join(f"v{i} = Add(v{i - 1}, v{i - 1})" for i in range(1, 40))
    model = model_of(f"{body} e = Erf(v39) d = Add(e, one) h = Mul(d, x) y = Mul(h, half)", 20)
    assert not FuseGelu()(model).modified


@pytest.mark.parametrize("step", ["Add(v{}, one)", "Mul(v{}, half)", "Mul(half, v{})"])
def test_long_chains_are_read_to_some_depth_only(step: str) -> None:
    count = 2000
    chain = " ".join(f"v{i} = {step.format(i - 1)}" for i in range(1, count))
    tail = f"e = Erf(v{count - 1}) d = Add(e, one) h = Mul(d, x) y = Mul(h, half)"
    assert not FuseGelu()(model_of(f"v0 = Abs(x) {chain} {tail}", 20)).modified


def test_middle_stays_when_it_is_used_twice_and_a_graph_output() -> None:
    """x^2 is read once and belongs to both of its users."""
    body = (
        "p = Mul(x, x) r = Mul(p, x) q = Mul(r, c) s = Add(x, q) u = Mul(s, k) t = Tanh(u) "
        "d = Add(t, one) h = Mul(x, half) y = Mul(h, d)"
    )
    assert_refuses(FuseGelu(), model_of(body, 20, output=", float[N,9] p"), "other users")

"""FuseHardActivations: every order of the factors, both Clip spellings, opsets, refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.fusion.hard_activations import FuseHardActivations

NUMBERS = {
    "three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "rough": 0.16667, "one": 1.0,
    "half": 0.5, "a": 0.2, "bad": 0.17,
}  # fmt: skip
CLIP = "s = Add(x, three) c = Clip(s, zero, six)"


def model_of(body: str, opset: int = 14, name: str = "float", output: str = "") -> ir.Model:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[name]
    used = {word: np.array(NUMBERS[word], dtype) for word in sorted(words) if word in NUMBERS}
    text = f"g ({name}[N,9] x) => ({name}[N,9] y{output}) {{ {body} }}"
    model = parse_model(text, used, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


FEEDS = {"x": np.linspace(-7, 7, 45, dtype=np.float32).reshape(5, 9)}


@pytest.mark.parametrize(
    "body",
    [
        f"{CLIP} y = Div(c, six)",
        f"{CLIP} y = Mul(c, sixth)",
        f"{CLIP} y = Mul(rough, c)",
        "s = Add(three, x) m = Max(s, zero) c = Min(m, six) y = Div(c, six)",
        "t = Mul(x, a) s = Add(t, half) y = Clip(s, zero, one)",
        "s = Add(x, three) t = Div(s, six) y = Clip(t, zero, one)",
        "t = Mul(a, x) s = Add(half, t) m = Max(s, zero) y = Min(m, one)",
    ],
)
@pytest.mark.parametrize("opset", [11, 14, 21])
def test_hard_sigmoid_is_found(body: str, opset: int) -> None:
    if "Clip" not in body:
        opset = max(opset, 12)
    model = model_of(body, opset)
    assert_rewrites(
        FuseHardActivations(), model, expect=["HardSigmoid"], rewrites=1, rtol=1e-4, atol=1e-5,
        feeds=FEEDS,
    )  # fmt: skip


SWISH = [
    f"{CLIP} d = Div(c, six) y = Mul(x, d)",
    f"{CLIP} d = Mul(x, c) y = Div(d, six)",
    f"{CLIP} d = Mul(c, x) y = Mul(sixth, d)",
    f"{CLIP} d = Div(x, six) y = Mul(c, d)",
    f"{CLIP} d = Mul(c, sixth) y = Mul(d, x)",
    "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, h)",
]


@pytest.mark.parametrize("body", SWISH)
def test_hard_swish_is_found_when_the_opset_has_it(body: str) -> None:
    result = FuseHardActivations()
    model = model_of(body)
    steps = 2 if "d = Div(c" in body or "d = Mul(c, sixth)" in body else 1
    assert_rewrites(
        result, model, expect=["HardSwish"], rewrites=steps, rtol=1e-4, atol=1e-5, feeds=FEEDS
    )


@pytest.mark.parametrize("body", SWISH[:5])
def test_hard_sigmoid_is_multiplied_when_the_opset_has_no_hard_swish(body: str) -> None:
    model = model_of(body, opset=13)
    expect = ["HardSigmoid", "Mul"]
    assert_rewrites(
        FuseHardActivations(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5, feeds=FEEDS
    )


def test_attributes_of_old_clips_are_read() -> None:
    model = model_of(
        "s = Add(x, three) c = Clip <min = 0.0, max = 6.0> (s) y = Div(c, six)", opset=10
    )
    assert_rewrites(
        FuseHardActivations(), model, expect=["HardSigmoid"], rewrites=1, rtol=1e-4, atol=1e-5,
        feeds=FEEDS,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        f"{CLIP} y = Mul(c, bad)",  # not one sixth
        "y = Clip(x, zero, one)",  # fuses into a Conv as it is
        f"{CLIP} r = Relu(x) d = Mul(c, r) y = Div(d, bad)",  # times something else than x
        "s = Add(x, three) c = Clip(s, one, six) y = Div(c, six)",
        "s = Sub(three, x) c = Clip(s, zero, six) y = Div(c, six)",  # falls
    ],
)
def test_nothing_is_fused_when_the_numbers_differ(body: str) -> None:
    result = FuseHardActivations()(model_of(body))
    assert not result.modified
    assert not result.refusals


def test_middle_stays_when_it_is_a_graph_output() -> None:
    model = model_of(f"{CLIP} y = Div(c, six)", output=", float[N,9] c")
    assert_refuses(FuseHardActivations(), model, "other users")


def test_float16_is_fused_and_double_stays() -> None:
    body = f"{CLIP} d = Mul(x, c) y = Div(d, six)"
    model = model_of(body, name="float16")
    assert_rewrites(
        FuseHardActivations(), model, expect=["HardSwish"], rewrites=1, rtol=1e-2, atol=1e-2
    )
    assert not FuseHardActivations()(model_of(body, name="double")).modified


def test_long_products_take_no_time() -> None:
    """A product of forty values would be read 4^40 times if products were read inside products."""
    body = "v0 = Mul(x, x) " + " ".join(f"v{i} = Mul(v{i - 1}, v{i - 1})" for i in range(1, 40))
    assert not FuseHardActivations()(model_of(body + " y = Mul(v39, x)")).modified


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        """g (float[N,9] x, bool k) => (float[N,9] y)
        <float three = {3}, float zero = {0}, float six = {6}> {
            y = If (k) <
                then_branch = t () => (float[N,9] p) {
                    s = Add(x, three) c = Clip(s, zero, six) p = Div(c, six)
                },
                else_branch = e () => (float[N,9] q) { q = Relu(x) }
            >
        }"""
    )
    assert_rewrites(FuseHardActivations(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)


def test_sums_that_double_take_no_time() -> None:
    body = "v0 = Mul(x, half) " + " ".join(
        f"m{i} = Mul(v{i - 1}, half) v{i} = Add(v{i - 1}, m{i})" for i in range(1, 40)
    )
    model = model_of(f"{body} c = Clip(v39, zero, six) y = Mul(x, c)")
    assert not FuseHardActivations()(model).modified


@pytest.mark.parametrize("step", ["Mul(v{}, half)", "Add(v{}, half)", "Div(v{}, half)"])
def test_long_chains_are_read_to_some_depth_only(step: str) -> None:
    count = 2000
    chain = " ".join(f"v{i} = {step.format(i - 1)}" for i in range(1, count))
    model = model_of(f"v0 = Abs(x) {chain} c = Clip(v{count - 1}, zero, six) y = Mul(v9, c)")
    assert not FuseHardActivations()(model).modified

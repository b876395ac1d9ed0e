"""FuseLayerNorm: every spelling, scale and bias, Casts, opsets, axes, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.layer_norm import FuseLayerNorm

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


def mean(x: str, opset: int, axes: str = "-1") -> str:
    if opset < 18:
        return f"ReduceMean <axes = [{axes}]> ({x})"
    return f"ReduceMean({x}, axes)"


def core(opset: int, square: str, quotient: str, axes: str = "-1", sub: str = "d") -> str:
    double = "e = Sub(x, u)" if sub == "e" else ""
    return f"""u = {mean("x", opset, axes)} d = Sub(x, u) {double} q = {square}
        v = {mean("q", opset, axes)} w = Add(v, eps) {quotient.replace("NUM", sub)}"""


def numbers(opset: int, axes: str = "-1") -> str:
    count = axes.count(",") + 1
    reduced = f", int64[{count}] axes = {{{axes}}}" if opset >= 18 else ""
    return f"<float eps = {{0.00001}}, float two = {{2}}{reduced}"


SQUARES = ["Pow(d, two)", "Mul(d, d)"]
QUOTIENTS = [
    "s = Sqrt(w) n = Div(NUM, s)",
    "s = Sqrt(w) r = Reciprocal(s) n = Mul(NUM, r)",
    "s = Sqrt(w) r = Div(one, s) n = Mul(r, NUM)",
    "r = Pow(w, mhalf) n = Mul(NUM, r)",
]
POOL = "GlobalAveragePool"
AFFINE = " m = Mul(g, n) y = Add(m, b)"


def prepared(text: str, weights: dict[str, Any], opset: int) -> ir.Model:
    model = parse_model(text, weights, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("sub", ["d", "e"])
def test_every_spelling_is_found(square: str, quotient: str, opset: int, sub: str) -> None:
    extra = ", float one = {1}" * ("one" in quotient) + ", float mhalf = {-0.5}" * (
        "mhalf" in quotient
    )
    model = prepared(
        f"""g (float[N,3,8] x) => (float[N,3,8] y) {numbers(opset)}{extra}>
        {{ {core(opset, square, quotient, sub=sub)} {AFFINE} }}""",
        {"g": normal(8), "b": normal(8)},
        opset,
    )
    assert_rewrites(
        FuseLayerNorm(), model, expect=["LayerNormalization"], rewrites=3, rtol=1e-4, atol=1e-5
    )
    node = model.graph[0]
    assert len(node.inputs) == 3
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("tail", "rewrites"), [("y = Relu(n)", 1), ("y = Mul(n, g)", 2), ("y = Add(b, n)", 2)]
)
def test_scale_and_bias_are_optional(tail: str, rewrites: int) -> None:
    vectors = {name: normal(8) for name in "gb" if f"{name}," in tail or f", {name}" in tail}
    model = prepared(
        f"""g (float[N,8] x) => (float[N,8] y) {numbers(17)}>
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} {tail} }}""",
        vectors,
        17,
    )
    assert_rewrites(FuseLayerNorm(), model, expect=None, rewrites=rewrites, rtol=1e-4, atol=1e-5)
    assert model.graph[0].op_type == "LayerNormalization"


@pytest.mark.parametrize("axes", ["2, 3", "-2, -1", "-1", "3"])
def test_trailing_axes_are_normalized(axes: str) -> None:
    model = prepared(
        f"""g (float[N,3,4,5] x) => (float[N,3,4,5] n) {numbers(18, axes)}>
        {{ {core(18, SQUARES[0], QUOTIENTS[0], axes)} }}""",
        {},
        18,
    )
    assert_rewrites(
        FuseLayerNorm(), model, expect=["LayerNormalization"], rewrites=1, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("axes", ["1", "1, 2"])
def test_other_axes_stay_silently(axes: str) -> None:
    model = prepared(
        f"""g (float[N,3,4,5] x) => (float[N,3,4,5] n) {numbers(18, axes)}>
        {{ {core(18, SQUARES[0], QUOTIENTS[0], axes)} }}""",
        {},
        18,
    )
    result = FuseLayerNorm()(model)
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("mean", ["ReduceMean <axes = [-1]>", POOL])
def test_scale_comes_first_as_tensorflow_writes_it(mean: str) -> None:
    parts = core(17, SQUARES[1], "s = Sqrt(w) i = Reciprocal(s) r = Mul(i, g)")
    model = prepared(
        f"""g (float[N,3,8] x) => (float[N,3,8] y) {numbers(17)}> {{
            {parts.replace("ReduceMean <axes = [-1]>", mean)}
            p = Mul(x, r) o = Mul(r, u) t = Sub(b, o) y = Add(p, t)
        }}""",
        {"g": normal(8), "b": normal(8)},
        17,
    )
    assert_rewrites(
        FuseLayerNorm(), model, expect=["LayerNormalization"], rewrites=1, rtol=1e-4, atol=1e-5
    )


def test_pooled_mean_over_several_axes_has_no_scale_by_channel() -> None:
    parts = core(17, SQUARES[0], QUOTIENTS[0]).replace("ReduceMean <axes = [-1]>", POOL)
    model = prepared(
        f"g (float[N,3,4,5] x) => (float[N,3,4,5] y) {numbers(17)}> {{ {parts} y = Mul(n, g) }}",
        {"g": normal(3, 1, 1)},
        17,
    )
    expect = ["LayerNormalization", "Mul"]
    assert_rewrites(FuseLayerNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_leading_ones_of_scale_are_dropped_and_the_shared_one_stays() -> None:
    model = prepared(
        f"""g (float[N,3,8] x) => (float[N,3,8] y, float[N,3,8] z) {numbers(17)}>
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} m = Mul(g, n) y = Add(m, b) z = Add(x, g) }}""",
        {"g": normal(1, 1, 8), "b": normal(8)},
        17,
    )
    expect = ["LayerNormalization", "Add"]
    assert_rewrites(FuseLayerNorm(), model, expect=expect, rewrites=3, rtol=1e-4, atol=1e-5)


def test_scale_stays_outside_when_it_has_another_shape() -> None:
    model = prepared(
        f"""g (float[N,8,8] x) => (float[N,8,8] y) {numbers(17)}>
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} y = Mul(n, g) }}""",
        {"g": normal(8, 1)},
        17,
    )
    expect = ["LayerNormalization", "Mul"]
    assert_rewrites(FuseLayerNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_casts_around_it_are_taken_in() -> None:
    model = prepared(
        f"""g (float16[N,3,8] h) => (float16[N,3,8] y) {numbers(17)}> {{
            x = Cast <to = 1> (h)
            {core(17, SQUARES[0], QUOTIENTS[0])}
            c = Cast <to = 10> (n) m = Mul(g, c) y = Add(m, b)
        }}""",
        {"g": normal(8, dtype=np.float16), "b": normal(8, dtype=np.float16)},
        17,
    )
    assert_rewrites(
        FuseLayerNorm(), model, expect=["LayerNormalization"], rewrites=4, rtol=1e-2, atol=1e-2
    )


def test_casts_stay_when_the_scale_needs_float() -> None:
    model = prepared(
        f"""g (float16[N,3,8] h) => (float16[N,3,8] y) {numbers(17)}> {{
            x = Cast <to = 1> (h)
            {core(17, SQUARES[0], QUOTIENTS[0])}
            m = Mul(g, n) y = Cast <to = 10> (m)
        }}""",
        {"g": normal(8)},
        17,
    )
    result = assert_rewrites(
        FuseLayerNorm(), model, expect=["Cast", "LayerNormalization", "Cast"], rewrites=2,
        rtol=1e-2, atol=1e-2,
    )  # fmt: skip
    assert any("exact in 16 bit" in refusal.reason for refusal in result.refusals)


@pytest.mark.parametrize(
    ("name", "dtype", "rtol"), [("float16", np.float16, 2e-2), ("double", np.float64, 1e-6)]
)
def test_other_float_types_are_fused(name: str, dtype: Any, rtol: float) -> None:
    model = prepared(
        f"""g ({name}[N,3,8] x) => ({name}[N,3,8] y)
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} {AFFINE} }}""",
        {
            "g": normal(8, dtype=dtype),
            "b": normal(8, dtype=dtype),
            "eps": np.array(1e-3, dtype),
            "two": np.array(2, dtype),
        },
        17,
    )
    assert_rewrites(
        FuseLayerNorm(), model, expect=["LayerNormalization"], rewrites=3, rtol=rtol, atol=rtol
    )


def test_old_opsets_get_a_hint() -> None:
    model = prepared(
        f"""g (float[N,8] x) => (float[N,8] n) {numbers(16)}>
        {{ {core(16, SQUARES[0], QUOTIENTS[0])} }}""",
        {},
        16,
    )
    assert_refuses(FuseLayerNorm(), model, "needs opset 17 (--opset 17)")


def test_unknown_size_is_refused() -> None:
    model = prepared(
        f"""g (float[N,K] x) => (float[N,K] n) {numbers(17)}>
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} }}""",
        {},
        17,
    )
    assert_refuses(FuseLayerNorm(), model, "size is not known")


@pytest.mark.parametrize("value", ["d", "v", "s"])
def test_middle_stays_when_it_is_a_graph_output(value: str) -> None:
    size = 8 if value == "d" else 1
    model = prepared(
        f"""g (float[N,8] x) => (float[N,8] n, float[N,{size}] {value}) {numbers(17)}>
        {{ {core(17, SQUARES[0], QUOTIENTS[0])} }}""",
        {},
        17,
    )
    assert_refuses(FuseLayerNorm(), model, "other users")


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        f"""g (float[N,8] x, bool k) => (float[N,8] y) {numbers(17)}> {{
            y = If (k) <
                then_branch = t () => (float[N,8] n) {{
                    {core(17, SQUARES[0], QUOTIENTS[0])}
                }},
                else_branch = e () => (float[N,8] z) {{ z = Relu(x) }}
            >
        }}""",
        opset=17,
    )
    assert_rewrites(FuseLayerNorm(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)


def test_nothing_is_fused_when_epsilon_adds_an_axis() -> None:
    text = core(18, SQUARES[1], QUOTIENTS[0]).replace("n = ", "y = ")
    model = prepared(
        f"g (float[N,8] x) => (float[1,N,8] y) <int64[1] axes = {{-1}}> {{ {text} }}",
        {"eps": np.full((1, 1, 1), 1e-5, np.float32)},
        18,
    )
    assert_rewrites(FuseLayerNorm(), model, expect=None, rewrites=0, rtol=0, atol=0)

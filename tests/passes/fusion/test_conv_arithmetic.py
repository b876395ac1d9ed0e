"""FuseConvArithmetic: all operations behind and in front, operand orders, shapes and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.conv_arithmetic import FuseConvArithmetic

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return (RNG.standard_normal(shape) + 2.0).astype(dtype)


@pytest.mark.parametrize(
    "formula",
    ["Mul(c, k)", "Mul(k, c)", "Div(c, k)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)"],
)
@pytest.mark.parametrize("shape", [(), (1,), (6, 1, 1), (1, 6, 1, 1)])
def test_conv_takes_the_operation_behind_it(formula: str, shape: tuple[int, ...]) -> None:
    model = parse_model(
        f"""g (float[N,4,5,5] x) => (float[N,6,3,3] y)
        {{ c = Conv <group = 2> (x, w) y = {formula} }}""",
        {"w": normal(6, 2, 3, 3), "k": normal(*shape)},
    )
    assert_rewrites(FuseConvArithmetic(), model, expect=["Conv"], rewrites=1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("linear", "weight", "bias", "shape", "expect"),
    [
        ("ConvTranspose <group = 2> (x, w, b)", (4, 3, 2, 2), 6, (6, 1, 1), ["ConvTranspose"]),
        ("Gemm <transB = 1> (f, w, b)", (6, 100), 6, (6,), ["Flatten", "Gemm"]),
        ("Gemm <alpha = 0.5, beta = 3.0> (f, w, b)", (100, 6), 6, (1, 6), ["Flatten", "Gemm"]),
        ("MatMul(f, w)", (100, 6), None, (6,), ["Flatten", "MatMul"]),
        ("MatMul(x, w)", (5, 6), None, (1, 1, 1, 6), ["MatMul"]),
    ],
)
def test_linear_nodes_take_the_scale_behind_them(
    linear: str,
    weight: tuple[int, ...],
    bias: int | None,
    shape: tuple[int, ...],
    expect: list[str],
) -> None:
    flatten = "f = Flatten(x)" if "(f," in linear else ""
    model = parse_model(
        f"""g (float[N,4,5,5] x) => (float y)
        {{ {flatten} c = {linear} y = Mul(c, k) }}""",
        {"w": normal(*weight), "k": normal(*shape)} | ({"b": normal(bias)} if bias else {}),
    )
    model.graph.outputs[0].shape = None
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(FuseConvArithmetic(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-3)


def test_matmul_and_its_add_are_scaled_when_they_are_one_linear_node() -> None:
    model = parse_model(
        """g (float[N,7,5] x) => (float[N,7,6] y)
        { p = MatMul(x, w) c = Add(b, p) z = Mul(c, k) y = Sub(z, k) }""",
        {"w": normal(5, 6), "b": normal(6), "k": normal(6)},
    )
    expect = ["MatMul", "Add"]
    assert_rewrites(FuseConvArithmetic(), model, expect=expect, rewrites=2, rtol=1e-4, atol=1e-4)


def test_whole_normalization_is_folded_when_it_is_spelled_out() -> None:
    """tf2onnx and hand-written exporters: (conv - mean) * scale * gamma + beta."""
    model = parse_model(
        """g (float[N,4,5,5] x) => (float[N,6,3,3] y)
        { c = Conv(x, w, b) d = Sub(c, m) e = Mul(r, d) f = Div(e, s) y = Add(t, f) }""",
        {"w": normal(6, 4, 3, 3), "b": normal(6), "m": normal(6, 1, 1), "r": normal(6, 1, 1),
         "s": normal(1, 6, 1, 1), "t": normal(6, 1, 1)},
    )  # fmt: skip
    assert_rewrites(FuseConvArithmetic(), model, expect=["Conv"], rewrites=4, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3,), "one number per output channel"),
        ((1, 1, 6, 1, 1), "one number per output channel"),
        ((2, 6, 1, 1), "one number per output channel"),
        ((3, 1), "one number per output channel"),
    ],
)
def test_constant_stays_when_it_is_no_number_per_channel(
    shape: tuple[int, ...], reason: str
) -> None:
    model = parse_model(
        "g (float[1,4,5,5] x) => (float y) { c = Conv(x, w) y = Mul(c, k) }",
        {"w": normal(6, 4, 3, 3), "k": normal(*shape)},
    )
    model.graph.outputs[0].shape = None
    assert_refuses(FuseConvArithmetic(), model, reason)


def test_constant_stays_when_it_enlarges_a_single_channel() -> None:
    model = parse_model(
        "g (float[N,4,5,5] x) => (float[N,6,3,3] y) { c = Conv(x, w) y = Add(c, k) }",
        {"w": normal(1, 4, 3, 3), "k": normal(6, 1, 1)},
    )
    assert_refuses(FuseConvArithmetic(), model, "one number per output channel")


@pytest.mark.parametrize(
    ("formula", "outputs", "reason"),
    [
        ("Div(c, zero)", "", "divides by zero"),
        ("Div(k, c)", "", "divides by zero or by the output"),
        ("Mul(c, k)", ", float[N,6,3,3] c", "other users"),
    ],
)
def test_operation_behind_stays_when_it_cannot_be_folded(
    formula: str, outputs: str, reason: str
) -> None:
    model = parse_model(
        f"""g (float[N,4,5,5] x) => (float[N,6,3,3] y{outputs}) <float zero = {{0}}>
        {{ c = Conv(x, w) y = {formula} }}""",
        {"w": normal(6, 4, 3, 3)} | ({} if "zero" in formula else {"k": normal(6, 1, 1)}),
    )
    assert_refuses(FuseConvArithmetic(), model, reason)


def test_shared_weight_serves_both_when_only_the_bias_changes() -> None:
    model = parse_model(
        """g (float[N,16,5,5] x) => (float[N,16,3,3] y, float[N,16,3,3] z)
        { c = Conv(x, w) y = Add(c, k) z = Conv(x, w) }""",
        {"w": normal(16, 16, 3, 3), "k": normal(16, 1, 1)},
    )
    expect = ["Conv", "Conv"]
    assert_rewrites(FuseConvArithmetic(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-3)
    assert model.graph[0].inputs[1] is model.graph[1].inputs[1]


def test_shared_weight_is_refused_when_a_second_one_is_large() -> None:
    model = parse_model(
        """g (float[N,16,5,5] x) => (float[N,16,3,3] y, float[N,16,3,3] z)
        { c = Conv(x, w) y = Mul(c, k) z = Conv(x, w) }""",
        {"w": normal(16, 16, 3, 3), "k": normal(16, 1, 1)},
    )
    assert_refuses(FuseConvArithmetic(), model, "share")


@pytest.mark.parametrize(
    ("formula", "shape", "rewrites"),
    [
        ("Mul(x, k)", (), 1),
        ("Mul(k, x)", (1, 4, 1, 1), 1),
        ("Div(x, k)", (4, 1, 1), 1),
        ("Add(k, x)", (4, 1, 1), 1),
        ("Sub(x, k)", (), 1),
        ("Sub(k, x)", (4, 1, 1), 1),
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_conv_takes_the_operation_before_it(
    formula: str, shape: tuple[int, ...], rewrites: int, group: int
) -> None:
    model = parse_model(
        f"""g (float[N,4,5,5] x) => (float[N,6,3,3] y)
        {{ c = {formula} y = Conv <group = {group}> (c, w, b) }}""",
        {"w": normal(6, 4 // group, 3, 3), "k": normal(*shape), "b": normal(6)},
    )
    assert_rewrites(
        FuseConvArithmetic(), model, expect=["Conv"], rewrites=rewrites, rtol=1e-4, atol=1e-3
    )


def test_pixels_are_scaled_inside_when_the_conv_pads_and_the_mean_stays() -> None:
    model = parse_model(
        """g (float[N,3,5,5] x) => (float[N,6,5,5] y) {
            a = Sub(x, m) c = Div(a, s) y = Conv <pads = [1,1,1,1]> (c, w)
        }""",
        {"w": normal(6, 3, 3, 3), "m": normal(3, 1, 1), "s": normal(3, 1, 1)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    result = assert_rewrites(
        FuseConvArithmetic(), model, expect=["Sub", "Conv"], rewrites=1, rtol=1e-4, atol=1e-3
    )
    assert any("not shifted" in refusal.reason for refusal in result.refusals)


def test_large_shift_is_refused_before_a_conv() -> None:
    model = parse_model(
        """g (float[N,3,5,5] x) => (float[N,6,3,3] y) <float k = {10000.0}>
        { c = Add(x, k) y = Conv(c, w) }""",
        {"w": normal(6, 3, 3, 3)},
    )
    assert_refuses(FuseConvArithmetic(), model, "lose digits")


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("c = Mul(x, k) y = ConvTranspose(c, w)", {"w": (4, 3, 2, 2), "k": (1, 4, 1, 1)}),
        ("f = Flatten(x) c = Div(f, k) y = Gemm <transB = 1> (c, w)", {"w": (6, 100), "k": ()}),
        ("c = Mul(k, x) y = MatMul(c, w)", {"w": (5, 6), "k": (1,)}),
    ],
)
def test_linear_nodes_take_the_scale_before_them(
    text: str, weights: dict[str, tuple[int, ...]]
) -> None:
    model = parse_model(
        f"g (float[N,4,5,5] x) => (float y) {{ {text} }}",
        {name: normal(*shape) for name, shape in weights.items()},
    )
    model.graph.outputs[0].shape = None
    ir.passes.common.ShapeInferencePass()(model)
    expect = [op for op in op_types(model) if op not in ("Mul", "Div")]
    assert_rewrites(FuseConvArithmetic(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "c = Mul(x, k) y = MatMul(c, w)",  # the scale of a LayerNormalization
        "s = Sigmoid(x) a = Mul(x, s) c = Mul(a, h) y = MatMul(c, w)",
        "c = Add(x, h) y = MatMul(c, w)",
        "c = Mul(x, h) z = Relu(c) y = MatMul(c, w)",
    ],
)
def test_factor_stays_silently_when_it_belongs_to_something_else(text: str) -> None:
    model = parse_model(
        f"g (float[N,5] x) => (float[N,6] y) <float h = {{0.5}}> {{ {text} }}",
        {"w": normal(5, 6)} | ({"k": normal(5)} if "k)" in text else {}),
    )
    result = FuseConvArithmetic()(model)
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [("float16", np.float16, 2e-2), ("double", np.float64, 1e-12)]
)
def test_type_is_kept_when_weights_are_not_float(name: str, dtype: Any, tolerance: float) -> None:
    model = parse_model(
        f"g ({name}[N,5] x) => ({name}[N,4] y) {{ c = Gemm(x, w, b) y = Mul(c, k) }}",
        {"w": normal(5, 4, dtype=dtype), "b": normal(4, dtype=dtype), "k": normal(4, dtype=dtype)},
    )
    assert_rewrites(
        FuseConvArithmetic(), model, expect=["Gemm"], rewrites=1, rtol=tolerance, atol=tolerance
    )


def test_subgraph_is_folded_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        """g (float[N,4] x, bool k) => (float[N,6] y) <float h = {0.5}, float[1] w = {0}> {
            y = If (k) <
                then_branch = a () => (float[N,6] p) { c = Gemm(x, w) p = Mul(c, h) },
                else_branch = e () => (float[N,6] q) { q = Gemm(x, w) }
            >
        }""",
        {"w": normal(4, 6)},
    )
    assert_rewrites(FuseConvArithmetic(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [7, 11, 13, 21])
def test_bias_is_folded_at_every_opset(opset: int) -> None:
    model = parse_model(
        "g (float[N,4,H,W] x) => (float[N,6,P,Q] y) { c = Conv(x, w) y = Add(c, k) }",
        {"w": normal(6, 4, 3, 3), "k": normal(1, 6, 1, 1)},
        opset=opset,
    )
    assert_rewrites(
        FuseConvArithmetic(), model, expect=["Conv"], rewrites=1, rtol=1e-4, atol=1e-4,
        sizes=[{"N": 2, "H": 5, "W": 9}],
    )  # fmt: skip


def test_float16_stays_when_the_weight_would_become_denormal() -> None:
    model = parse_model(
        "g (float16[N,5] x) => (float16[N,4] y) { c = Mul(x, k) y = Gemm(c, w) }",
        {"w": normal(5, 4, dtype=np.float16), "k": np.array(1e-6, np.float16)},
    )
    assert_refuses(FuseConvArithmetic(), model, "leaves the range")


@pytest.mark.parametrize("op", ["Mul", "Sub", "Add", "Div"])
@pytest.mark.parametrize(
    ("x", "k", "y"),
    [
        ("1,1,8,8", (1, 3, 1, 1), "1,4,6,6"),  # one channel becomes three
        ("N,1,8,8", (3, 1, 1), "N,4,6,6"),
        ("3,8,8", (1, 1, 1, 1), "1,4,6,6"),  # three axes become four
        ("1,8,8", (1, 3, 1, 1), "1,4,6,6"),
    ],
)
def test_operation_before_stays_when_it_enlarges_what_the_node_reads(
    op: str, x: str, k: tuple[int, ...], y: str
) -> None:
    model = parse_model(
        f"g (float[{x}] x) => (float[{y}] y) {{ c = {op}(x, k) y = Conv(c, w) }}",
        {"w": normal(4, 3, 3, 3), "k": normal(*k)},
    )
    assert_refuses(FuseConvArithmetic(), model, "may enlarge")


@pytest.mark.parametrize(("x", "k", "linear"), [("3", (1, 1), "Gemm"), ("", (1,), "MatMul")])
def test_factor_stays_when_it_brings_the_axes_of_a_matrix(
    x: str, k: tuple[int, ...], linear: str
) -> None:
    source = f"float[{x}]" if x else "float"
    model = parse_model(
        f"g ({source} x) => (float y) {{ c = Mul(x, k) y = {linear}(c, w) }}",
        {"w": normal(3 if x else 1, 4), "k": normal(*k)},
    )
    assert_refuses(FuseConvArithmetic(), model, "may enlarge")


@pytest.mark.parametrize(("k", "folded"), [((), True), ((1, 1, 1), True), ((1, 3, 1, 1), False)])
def test_operation_before_is_folded_without_a_shape_when_it_cannot_enlarge_it(
    k: tuple[int, ...], folded: bool
) -> None:
    model = parse_model(
        """g (float[A,B,C,D] x) => (float[E,F,G,H] y)
        { r = Relu(x) c = Mul(r, k) y = Conv(c, w) }""",
        {"w": normal(4, 3, 3, 3), "k": normal(*k)},
    )
    assert FuseConvArithmetic()(model).modified is folded

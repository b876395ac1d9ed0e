"""FuseMatMulAdd: the form that pays for each rank, flags and factors, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.gemm import FuseMatMulAdd

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("formula", ["Add(p, b)", "Add(b, p)"])
@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), ()])
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_matrices_become_gemm(formula: str, bias: tuple[int, ...], opset: int) -> None:
    model = parse_model(
        f"g (float[N,5] x) => (float[N,4] y) {{ p = MatMul(x, w) y = {formula} }}",
        {"w": normal(5, 4), "b": normal(*bias)},
        opset=opset,
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["Gemm"], rewrites=1, rtol=1e-5, atol=1e-6)


def test_computed_operands_become_gemm() -> None:
    model = parse_model(
        """g (float[N,5] x, float[5,4] w, float[4] b) => (float[N,4] y)
        { p = MatMul(x, w) y = Add(p, b) }"""
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["Gemm"], rewrites=1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "w", "b"),
    [
        ("N,3,5", "5,4", "4"),  # rank 3 stays MatMul
        ("N,5", "5,4", "N,4"),  # a residual
        ("1,5", "5,1", "4"),  # would enlarge the product
        ("N,5", "5,4", "1,1,4"),
    ],
)
def test_matmul_stays_when_gemm_does_not_fit(x: str, w: str, b: str) -> None:
    model = parse_model(
        f"""g (float[{x}] x, float[{w}] w, float[{b}] b) => (float y)
        {{ p = MatMul(x, w) y = Add(p, b) }}"""
    )
    model.graph.outputs[0].shape = None
    assert not FuseMatMulAdd()(model).modified


def test_matmul_stays_when_the_product_is_a_graph_output() -> None:
    model = parse_model(
        """g (float[N,5] x) => (float[N,4] y, float[N,4] p)
        { p = MatMul(x, w) y = Add(p, b) }""",
        {"w": normal(5, 4), "b": normal(4)},
    )
    assert not FuseMatMulAdd()(model).modified


def test_matmul_stays_when_it_is_quantized() -> None:
    model = parse_model(
        """g (float[N,5] x) => (float[N,4] y) <float s = {0.1}, int8 z = {0}>
        { d = DequantizeLinear(q, s, z) p = MatMul(x, d) y = Add(p, b) }""",
        {"q": np.ones((5, 4), np.int8), "b": normal(4)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert not FuseMatMulAdd()(model).modified


def test_integers_stay() -> None:
    model = parse_model(
        """g (int32[N,5] x, int32[5,4] w, int32[4] b) => (int32[N,4] y)
        { p = MatMul(x, w) y = Add(p, b) }"""
    )
    assert not FuseMatMulAdd()(model).modified


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_float_types_become_gemm(name: str, dtype: Any) -> None:
    model = parse_model(
        f"g ({name}[N,5] x) => ({name}[N,4] y) {{ p = MatMul(x, w) y = Add(p, b) }}",
        {"w": normal(5, 4, dtype=dtype), "b": normal(4, dtype=dtype)},
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["Gemm"], rewrites=1, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("flags", ["", "transA = 1", "transA = 1, transB = 1"])
def test_transposes_become_flags(flags: str) -> None:
    a = "5,3" if "transA" not in flags else "3,5"
    b = "4,5" if "transB" not in flags else "5,4"
    model = parse_model(
        f"""g (float[{a}] a, float[{b}] b, float[4] c) => (float[3,4] y) {{
            p = Transpose <perm = [1, 0]> (a)
            q = Transpose(b)
            y = Gemm <alpha = 0.5, {flags or "transA = 0"}> (p, q, c)
        }}"""
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["Gemm"], rewrites=1, rtol=1e-5, atol=1e-6)


def test_transpose_stays_for_others_when_gemm_reads_around_it() -> None:
    model = parse_model(
        """g (float[5,3] a, float[5,4] b) => (float[3,4] y, float[3,5] p)
        { p = Transpose <perm = [1, 0]> (a) y = Gemm(p, b) }"""
    )
    expect = ["Transpose", "Gemm"]
    assert_rewrites(FuseMatMulAdd(), model, expect=expect, rewrites=1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_factors_are_folded_when_weights_are_constant(bias: bool) -> None:
    model = parse_model(
        f"""g (float[N,5] x) => (float[N,4] y)
        {{ y = Gemm <alpha = 0.5, beta = 3.0, transB = 1> (x, w{", b" if bias else ""}) }}""",
        {"w": normal(4, 5)} | ({"b": normal(4)} if bias else {}),
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["Gemm"], rewrites=1, rtol=1e-5, atol=1e-6)
    assert "alpha" not in model.graph[0].attributes


def test_factors_stay_when_the_weight_is_shared_and_large() -> None:
    model = parse_model(
        """g (float[N,64] x) => (float[N,64] y, float[N,64] z)
        { y = Gemm <alpha = 0.5> (x, w) z = MatMul(x, w) }""",
        {"w": normal(64, 64)},
    )
    assert_refuses(FuseMatMulAdd(), model, "share")


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_reshaped_gemm_becomes_matmul(transposed: int, bias: bool) -> None:
    model = parse_model(
        f"""g (float[N,6,5] x) => (float[N,6,4] y)
        <int64[2] flat = {{-1, 5}}, int64[3] full = {{-1, 6, 4}}> {{
            a = Reshape(x, flat)
            p = Gemm <transB = {transposed}> (a, w{", b" if bias else ""})
            y = Reshape(p, full)
        }}""",
        {"w": normal(*((4, 5) if transposed else (5, 4)))} | ({"b": normal(4)} if bias else {}),
    )
    expect = ["MatMul", "Add"] if bias else ["MatMul"]
    assert_rewrites(FuseMatMulAdd(), model, expect=expect, rewrites=1, rtol=1e-5, atol=1e-6)


def test_reshaped_gemm_stays_when_the_axes_are_not_proven() -> None:
    model = parse_model(
        """g (float[N,6,5] x, int64[3] full) => (float[P,Q,4] y) <int64[2] flat = {-1, 5}>
        { a = Reshape(x, flat) p = Gemm(a, w) y = Reshape(p, full) }""",
        {"w": normal(5, 4)},
    )
    assert_refuses(FuseMatMulAdd(), model, "not proven")


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        """g (float[N,5] x, float[5,4] w, float[4] b, bool k) => (float[N,4] y) {
            y = If (k) <
                then_branch = t () => (float[N,4] r) { p = MatMul(x, w) r = Add(b, p) },
                else_branch = e () => (float[N,4] q) { q = MatMul(x, w) }
            >
        }"""
    )
    assert_rewrites(FuseMatMulAdd(), model, expect=["If"], rewrites=1, rtol=1e-5, atol=1e-6)

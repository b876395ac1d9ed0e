"""FuseScales: numbers behind layout operations and products, and what keeps them there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.passes.fusion.scales import FuseScales

RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


HEADS = "<int64[4] split = {0, 0, 2, 4}, float s = {2.828427}>"
QUERY = "p = MatMul(x, w) a = Add(p, b) h = Reshape(a, split) q = Transpose <perm=[0,2,1,3]> (h)"


def model_of(body: str, output: str, *, name: str = "float", dtype: Any = np.float32) -> ir.Model:
    model = parse_model(
        f"""g ({name}[N,3,8] x, {name}[N,2,4,3] k) => ({name}[{output}] y)
        <int64[4] split = {{0, 0, 2, 4}}> {{ {body} }}""",
        {"w": normal(8, 8, dtype=dtype), "b": normal(8, dtype=dtype), "s": np.array(2.8, dtype)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("formula", ["Mul(q, s)", "Mul(s, q)", "Div(q, s)"])
def test_number_moves_through_layout_operations(formula: str) -> None:
    model = model_of(f"{QUERY} y = {formula}", "N,2,3,4")
    expect = ["MatMul", "Add", "Reshape", "Transpose"]
    assert_rewrites(FuseScales(), model, expect=expect, rewrites=1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("product", "output"), [("MatMul(q, k)", "N,2,3,3"), ("MatMul(k, q)", "N,2,4,4")]
)
def test_number_moves_through_the_product_of_attention(product: str, output: str) -> None:
    model = model_of(f"{QUERY} z = {product} y = Div(z, s)", output)
    expect = ["MatMul", "Add", "Reshape", "Transpose", "MatMul"]
    assert_rewrites(FuseScales(), model, expect=expect, rewrites=1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        f"{QUERY} r = Relu(q) y = Mul(r, s)",
        f"{QUERY} m = Mul(q, s) t = Transpose <perm=[0,1,3,2]> (q) c = MatMul(m, t) "
        "y = MatMul(c, q)",
        "h = Reshape(x, split) q = Transpose <perm=[0,2,1,3]> (h) p = Mul(q, s) "
        "a = Reshape(p, n) m = MatMul(a, w) e = Add(m, b) y = Transpose <perm=[0,2,1,3]> (p)",
    ],
)
def test_number_stays_silently_when_there_is_no_way(body: str) -> None:
    numbers = HEADS[:-1] + (", int64[3] n = {0, 3, 8}>" if "(p, n)" in body else ">")
    model = parse_model(
        f"g (float[N,3,8] x) => (float[N,2,3,4] y) {numbers} {{ {body} }}",
        {"w": normal(8, 8), "b": normal(8)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    result = FuseScales()(model)
    assert not result.modified
    assert not result.refusals


def test_large_shared_weight_is_refused() -> None:
    model = parse_model(
        """g (float[N,3,64] x) => (float[N,64,3] y, float[N,3,64] z) <float s = {2.0}>
        { a = MatMul(x, w) q = Transpose <perm=[0,2,1]> (a) y = Mul(q, s) z = MatMul(x, w) }""",
        {"w": normal(64, 64)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_refuses(FuseScales(), model, "share")


def test_middle_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (float[N,3,8] x) => (float[N,8,3] y, float[N,8,3] q) <float s = {2.0}>
        { a = MatMul(x, w) q = Transpose <perm=[0,2,1]> (a) y = Mul(q, s) }""",
        {"w": normal(8, 8)},
    )
    assert not FuseScales()(model).modified


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"), [("float16", np.float16, 3e-2), ("double", np.float64, 1e-12)]
)
def test_other_float_types_are_folded(name: str, dtype: Any, tolerance: float) -> None:
    model = model_of(f"{QUERY} y = Div(q, s)", "N,2,3,4", name=name, dtype=dtype)
    expect = ["MatMul", "Add", "Reshape", "Transpose"]
    assert_rewrites(FuseScales(), model, expect=expect, rewrites=1, rtol=tolerance, atol=tolerance)


def test_subgraph_is_rewritten_when_the_pattern_lies_inside() -> None:
    model = parse_model(
        """g (float[N,3,8] x, bool k) => (float[N,8,3] y) <float s = {2.0}, float[1] w = {0}> {
            y = If (k) <
                then_branch = t () => (float[N,8,3] r) {
                    a = MatMul(x, w) q = Transpose <perm=[0,2,1]> (a) r = Mul(q, s)
                },
                else_branch = e () => (float[N,8,3] z) { z = Transpose <perm=[0,2,1]> (x) }
            >
        }""",
        {"w": normal(8, 8)},
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(FuseScales(), model, expect=["If"], rewrites=1, rtol=1e-5, atol=1e-6)

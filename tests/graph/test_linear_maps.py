"""Weights as matrices: rows of the input times the matrix are rows of the output."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

from onnxopt.graph.linear_maps import is_shared, linear_maps

_RNG = np.random.default_rng(0)
_CASES = {
    "y = MatMul(x, w)": ((3, 5, 4), (4, 6)),
    "y = Gemm(x, w, b)": ((5, 4), (4, 6)),
    "y = Gemm<transB=1>(x, w, b)": ((5, 4), (6, 4)),
    "y = Conv<pads=[1,1,1,1]>(x, w, b)": ((2, 4, 7, 5), (6, 4, 3, 3)),
    "y = Conv<pads=[0,1,2,0], strides=[2,1], dilations=[1,2]>(x, w)": ((2, 4, 9, 9), (6, 4, 3, 2)),
    'y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)': ((1, 4, 7, 7), (6, 4, 3, 3)),
    'y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)': ((1, 4, 8, 8), (6, 4, 3, 3)),
    'y = Conv<auto_pad="VALID">(x, w)': ((1, 4, 8, 8), (6, 4, 3, 3)),
    "y = Conv<group=2>(x, w, b)": ((2, 4, 5, 5), (6, 2, 2, 2)),
    "y = Conv<pads=[1,1]>(x, w)": ((2, 4, 9), (6, 4, 3)),
}


def _model(text: str, x: tuple[int, ...], w: tuple[int, ...]) -> ir.Model:
    rank = ",".join(map(str, x))
    out = ",".join(f"d{i}" for i in range(len(x)))
    weights = {"w": _RNG.standard_normal(w).astype(np.float32)}
    if ", b)" in text:
        weights["b"] = _RNG.standard_normal(6).astype(np.float32)
    return parse_model(f"g (float[{rank}] x) => (float[{out}] y) {{ {text} }}", weights)


@pytest.mark.parametrize("text", _CASES)
def test_rows_times_matrix_are_the_output(text: str) -> None:
    model = _model(text, *_CASES[text])
    (site,) = linear_maps(model)
    source = _RNG.standard_normal(_CASES[text][0]).astype(np.float32)
    (output,) = run(model, {"x": source})
    for most in (10, 10**6):
        x, y = site.rows(source, output, most, np.random.default_rng(0))
        assert len(x) <= most
        bias = site.bias_array()
        found = np.einsum("rgk,gkn->rgn", x, site.matrices())
        if bias is not None:
            found += bias.reshape(y.shape[1:])
        np.testing.assert_allclose(found, y, atol=1e-4)


@pytest.mark.parametrize("text", _CASES)
def test_stored_matrices_and_bias_are_used(text: str) -> None:
    model = _model(text, *_CASES[text])
    (site,) = linear_maps(model)
    source = _RNG.standard_normal(_CASES[text][0]).astype(np.float32)
    (before,) = run(model, {"x": source})
    bias = site.bias_array()
    doubled = np.zeros(6) if bias is None else 2 * bias
    site.store(2 * site.matrices(), doubled if site.adds_bias else None)
    (after,) = run(model, {"x": source})
    np.testing.assert_allclose(after, 2 * before, rtol=1e-4, atol=1e-5)


def test_bias_behind_a_matmul_is_found() -> None:
    model = parse_model(
        "g (float[N,4] x) => (float[N,6] y) { m = MatMul(x, w) y = Add(b, m) }",
        {"w": np.ones((4, 6), np.float32), "b": np.ones(6, np.float32)},
    )
    (site,) = linear_maps(model)
    assert site.bias is not None
    assert site.bias.name == "b"


@pytest.mark.parametrize(
    "text",
    [
        "y = MatMul(w, x)",
        "y = Gemm<alpha=0.5>(x, w)",
        "y = Gemm<transA=1>(x, w)",
    ],
)
def test_other_forms_are_left_out(text: str) -> None:
    model = parse_model(
        f"g (float[4,4] x) => (float[4,4] y) {{ {text} }}", {"w": np.ones((4, 4), np.float32)}
    )
    assert not list(linear_maps(model))


@pytest.mark.parametrize(
    ("text", "x", "w"),
    [("y = Conv(x, w)", (1, 0, 8, 8), (8, 0, 3, 3)), ("y = MatMul(x, w)", (4, 0), (0, 5))],
)
def test_weights_without_elements_are_left_out(
    text: str, x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    assert not list(linear_maps(_model(text, x, w)))


def test_shared_weights_are_known() -> None:
    model = parse_model(
        "g (float[4,4] x) => (float[4,4] y) { a = MatMul(x, w) y = MatMul(a, w) }",
        {"w": np.ones((4, 4), np.float32)},
    )
    assert all(is_shared(site.weight) for site in linear_maps(model))

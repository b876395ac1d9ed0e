"""FuseQuickGelu: SiLU and the quick Gelu in every order, and gates that are something else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.fusion.quick_gelu import FuseQuickGelu

NUMBERS = {"a": np.float32(1.702), "v": np.linspace(1, 2, 8, dtype=np.float32)}


def model_of(body: str, output: str = "") -> ir.Model:
    used = {name: array for name, array in NUMBERS.items() if f"{name})" in body}
    text = f"g (float[N,8] x) => (float[N,8] y{output}) {{ {body} }}"
    model = parse_model(text, {key: np.asarray(array) for key, array in used.items()})
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize(
    ("body", "alpha"),
    [
        ("s = Sigmoid(x) y = Mul(x, s)", 1.0),
        ("s = Sigmoid(x) y = Mul(s, x)", 1.0),
        ("m = Mul(x, a) s = Sigmoid(m) y = Mul(x, s)", 1.702),
    ],
)
def test_gate_is_one_node(body: str, alpha: float) -> None:
    model = model_of(body)
    expect = ["com.microsoft.QuickGelu"]
    assert_rewrites(FuseQuickGelu(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)
    assert model.graph[0].attributes.get_float("alpha") == pytest.approx(alpha)


@pytest.mark.parametrize(
    "body",
    [
        "m = Mul(x, v) s = Sigmoid(m) y = Mul(x, s)",
        "m = Neg(x) s = Sigmoid(m) y = Mul(x, s)",
        "s = Tanh(x) y = Mul(x, s)",
        "s = Sigmoid(x) y = Mul(s, s)",
    ],
)
def test_nothing_changes_when_the_gate_is_another(body: str) -> None:
    result = FuseQuickGelu()(model_of(body))
    assert not result.modified
    assert not result.refusals


def test_sigmoid_stays_when_it_has_other_users() -> None:
    model = model_of("s = Sigmoid(x) y = Mul(x, s)", ", float[N,8] s")
    assert_refuses(FuseQuickGelu(), model, "other users")


def test_double_stays() -> None:
    model = parse_model("g (double[N,8] x) => (double[N,8] y) { s = Sigmoid(x) y = Mul(x, s) }")
    ir.passes.common.ShapeInferencePass()(model)
    assert not FuseQuickGelu()(model).modified


def test_subgraph_is_rewritten() -> None:
    model = parse_model(
        """g (float[N,8] x, bool k) => (float[N,8] y) {
            y = If (k) <
                then_branch = t () => (float[N,8] p) { s = Sigmoid(x) p = Mul(x, s) },
                else_branch = e () => (float[N,8] q) { q = Relu(x) }
            >
        }"""
    )
    assert_rewrites(FuseQuickGelu(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-5)

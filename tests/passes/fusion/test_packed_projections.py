"""PackProjections: two and three products, biases, old opsets, and groups that stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.graph.inference import infer_model
from onnxopt.passes.fusion.packed_projections import PackProjections

RNG = np.random.default_rng(0)
WIDTHS = {"wa": 4, "wb": 4, "wc": 6, "wd": 4}
WEIGHTS = {name: RNG.standard_normal((8, n)).astype(np.float32) for name, n in WIDTHS.items()}
BIASES = {f"b{name[1]}": WEIGHTS[name][0] for name in WIDTHS}
TAIL = "d = Mul(a, b) y = Concat<axis=-1>(d, c)"
THREE = "a = MatMul(x, wa) b = MatMul(x, wb) c = MatMul(x, wc)"
BIASED = (
    "p = MatMul(x, wa) a = Add(p, ba) q = MatMul(x, wb) b = Add(bb, q) r = MatMul(x, wc) "
    "c = Add(r, bc)"
)


def model_of(body: str, opset: int = 17, output: str = "") -> ir.Model:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {key: array for key, array in {**WEIGHTS, **BIASES}.items() if key in words}
    text = f"g (float[N,3,8] x) => (float[N,3,10] y{output}) {{ {body} }}"
    model = parse_model(text, used, opset=opset)
    infer_model(model)
    return model


def packed(model: ir.Model, expect: list[str] | None, rewrites: int = 1) -> None:
    assert_rewrites(
        PackProjections(), model, expect=expect, rewrites=rewrites, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_three_products_are_one(opset: int) -> None:
    model = model_of(f"{THREE} {TAIL}", opset)
    packed(model, ["MatMul", "Split", "Mul", "Concat"])
    weights = [v.shape for v in model.graph.initializers.values() if len(v.shape or ()) == 2]
    assert weights == [ir.Shape([8, 14])]


def test_biases_are_packed_too() -> None:
    model = model_of(f"{BIASED} {TAIL}")
    packed(model, ["MatMul", "Add", "Split", "Mul", "Concat"])


def test_biases_stay_outside_when_one_has_none() -> None:
    body = f"{BIASED.replace('c = Add(r, bc)', 'c = Relu(r)')} {TAIL}"
    packed(model_of(body), ["MatMul", "Split", "Add", "Add", "Relu", "Mul", "Concat"])


def test_outputs_keep_their_names() -> None:
    model = model_of(f"{THREE} {TAIL}", output=", float[N,3,6] c")
    packed(model, ["MatMul", "Split", "Mul", "Concat"])


def test_products_stay_when_they_are_more_than_three() -> None:
    model = model_of(f"{THREE} e = MatMul(x, wd) f = Mul(e, a) {TAIL.replace('a,', 'f,')}")
    assert_refuses(PackProjections(), model, "more than 3 products")


def test_weights_stay_when_they_are_used_elsewhere() -> None:
    model = model_of("a = MatMul(x, wa) b = MatMul(x, wa) c = MatMul(x, wc) " + TAIL)
    assert_refuses(PackProjections(), model, "used elsewhere")


@pytest.mark.parametrize(
    "body",
    [
        "z = Relu(x) a = MatMul(x, wa) b = MatMul(z, wb) c = Concat<axis=-1>(a, b) "
        "y = Pad(c, pads)",
        "a = MatMul(x, wa) c = MatMul(a, wsquare) y = Concat<axis=-1>(a, c)",
    ],
)
def test_nothing_changes_when_no_value_has_two_products(body: str) -> None:
    more = {"pads": np.array([0, 0, 0, 0, 0, 2]), "wsquare": np.zeros((4, 6), np.float32)}
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {key: array for key, array in {**WEIGHTS, **more}.items() if key in words}
    model = parse_model(f"g (float[N,3,8] x) => (float[N,3,10] y) {{ {body} }}", used)
    infer_model(model)
    result = PackProjections()(model)
    assert not result.modified
    assert not result.refusals


def test_subgraph_is_rewritten() -> None:
    model = parse_model(
        """g (float[N,2] x, bool k) => (float[N,2] y) {
            y = If (k) <
                then_branch = t () => (float[N,2] p)
                <float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {5, 6, 7, 8}> {
                    a = MatMul(x, w) b = MatMul(x, v) p = Mul(a, b)
                },
                else_branch = e () => (float[N,2] q) { q = Relu(x) }
            >
        }"""
    )
    infer_model(model)
    packed(model, ["If"])
    branch = model.graph[0].attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["MatMul", "Split", "Mul"]

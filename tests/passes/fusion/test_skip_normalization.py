"""FuseSkipNormalization: own and shared sums, biases, all normalizations, and what stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.inference import infer_model
from onnxopt.passes.fusion.skip_normalization import FuseSkipNormalization

RNG = np.random.default_rng(0)
VECTORS = {name: RNG.standard_normal(8).astype(np.float32) for name in "gbch"}
NORMS = {
    "LayerNormalization": ("LayerNormalization<epsilon=1e-6>(s, g, b)", 17),
    "without bias": ("LayerNormalization(s, g)", 17),
    "RMSNormalization": ("RMSNormalization<epsilon=1e-6>(s, g)", 23),
    "SimplifiedLayerNormalization": ("SimplifiedLayerNormalization<axis=-1>(s, g)", 17),
}


def model_of(
    body: str, opset: int = 17, *, shape: str = "N,3,8", output: str = "", inputs: str = ""
) -> ir.Model:
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: array for name, array in VECTORS.items() if name in words and not inputs}
    text = (
        f"g (float[{shape}] x, float[{shape}] z{inputs}) => (float[{shape}] y{output}) {{ {body} }}"
    )
    model = parse_model(text, used, opset=opset, ir_version=11 if opset >= 23 else 10)
    infer_model(model)
    return model


def fused_name(norm: str) -> str:
    simple = norm in ("RMSNormalization", "SimplifiedLayerNormalization")
    return f"com.microsoft.Skip{'Simplified' * simple}LayerNormalization"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sum_", ["Add(x, z)", "Sum(x, z)"])
def test_sum_and_normalization_are_one_node(norm: str, sum_: str) -> None:
    line, opset = NORMS[norm]
    assert_rewrites(
        FuseSkipNormalization(), model_of(f"s = {sum_} y = {line}", opset),
        expect=[fused_name(norm)], rewrites=1, rtol=1e-4, atol=1e-5, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("operands", ["a, x", "x, a"])
def test_bias_of_a_summand_is_taken_in(norm: str, operands: str) -> None:
    line, opset = NORMS[norm]
    assert_rewrites(
        FuseSkipNormalization(), model_of(f"a = Add(z, c) s = Add({operands}) y = {line}", opset),
        expect=[fused_name(norm)], rewrites=1, rtol=1e-4, atol=1e-5, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_shared_sum_is_an_output_when_others_read_it(norm: str) -> None:
    line, opset = NORMS[norm]
    body = f"a = Add(c, z) s = Add(x, a) r = Relu(s) n = {line} m = Mul(n, x) y = Add(m, r)"
    assert_rewrites(
        FuseSkipNormalization(), model_of(body, opset),
        expect=[fused_name(norm), "Relu", "Mul", "Add"], rewrites=2, rtol=1e-4, atol=1e-5,
        check=False,
    )  # fmt: skip


def test_shared_sum_keeps_its_name_when_it_is_an_output() -> None:
    model = model_of(f"s = Add(x, z) y = {NORMS['without bias'][0]}", output=", float[N,3,8] s")
    expect = ["com.microsoft.SkipLayerNormalization"]
    assert_rewrites(FuseSkipNormalization(), model, expect=expect, rewrites=2, rtol=1e-4, atol=1e-5)


def test_second_normalization_stays_when_it_has_another_scale() -> None:
    body = "s = Add(x, z) n = LayerNormalization(s, g) m = LayerNormalization(s, h) y = Add(n, m)"
    expect = ["com.microsoft.SkipLayerNormalization", "LayerNormalization", "Add"]
    assert_rewrites(
        FuseSkipNormalization(), model_of(body), expect=expect, rewrites=2, rtol=1e-4, atol=1e-5
    )


def test_matrices_are_fused() -> None:
    model = model_of("s = Add(x, z) y = LayerNormalization(s, g, b)", shape="N,8")
    expect = ["com.microsoft.SkipLayerNormalization"]
    assert_rewrites(FuseSkipNormalization(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("output", ["", ", float[N,3,8] s"])
def test_scale_stays_when_it_is_computed(output: str) -> None:
    model = model_of(
        "s = Add(x, z) y = LayerNormalization(s, g)", inputs=", float[8] g", output=output
    )
    assert_refuses(FuseSkipNormalization(), model, "is computed")


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("s = Add(x, c) y = LayerNormalization(s, g)", "N,3,8"),
        ("s = Add(x, z) y = LayerNormalization<axis=1>(s, w)", "N,3,8"),
        ("s = Add(x, z) y = LayerNormalization(s, g)", "N,2,3,8"),
        ("s = Add(x, z) r = Relu(s) y = Neg(s)", "N,3,8"),
        ("s = Mul(x, z) y = LayerNormalization(s, g)", "N,3,8"),
    ],
)
def test_nothing_changes_when_it_does_not_apply(body: str, shape: str) -> None:
    model = model_of(body.replace("s, w", "s, g"), shape=shape)
    if "axis=1" in body:
        value = model.graph.initializers["g"]
        value.const_value = ir.tensor(np.ones((3, 8), np.float32), name="g")
        value.shape = ir.Shape([3, 8])
    result = FuseSkipNormalization()(model)
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("tail", ["", " r = Relu(s)"])
def test_normalization_stays_when_its_operator_is_not_to_be_used(tail: str) -> None:
    pass_ = FuseSkipNormalization(operators=("SkipSimplifiedLayerNormalization",))
    assert not pass_(model_of(f"s = Add(x, z){tail} y = LayerNormalization(s, g)")).modified


def test_unknown_operators_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'Skip' is none of SkipLayerNormalization"):
        FuseSkipNormalization(operators=("Skip",))


@pytest.mark.parametrize("other", ["Relu(x)", "Relu(s)"])
def test_subgraph_is_rewritten(other: str) -> None:
    model = parse_model(
        f"""g (float[N,3,8] x, bool k, float[N,3,8] z) => (float[N,3,8] y)
        <float[8] g = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{
            y = If (k) <
                then_branch = t () => (float[N,3,8] p) {{
                    s = Add(x, z) n = LayerNormalization(s, g) r = {other} p = Add(n, r)
                }},
                else_branch = e () => (float[N,3,8] q) {{ q = Relu(x) }}
            >
        }}"""
    )
    infer_model(model)
    rewrites = 2 if "s" in other else 1
    assert_rewrites(
        FuseSkipNormalization(), model, expect=["If"], rewrites=rewrites, rtol=1e-4, atol=1e-5
    )


def test_sum_stays_when_the_normalization_is_in_a_branch() -> None:
    model = parse_model(
        """g (float[N,3,8] x, bool k, float[N,3,8] z) => (float[N,3,8] y)
        <float[8] g = {1, 2, 3, 4, 5, 6, 7, 8}> {
            s = Add(x, z)
            w = If (k) <
                then_branch = t () => (float[N,3,8] p) { p = LayerNormalization(s, g) },
                else_branch = e () => (float[N,3,8] q) { q = Relu(s) }
            >
            y = Add(w, s)
        }"""
    )
    infer_model(model)
    assert not FuseSkipNormalization()(model).modified

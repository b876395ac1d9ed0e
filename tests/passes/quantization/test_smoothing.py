"""SmoothActivations: outliers move into weights, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.calibrated import ChannelScales
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.parsing import parse_passes
from onnxopt.passes.quantization.smoothing import SmoothActivations
from onnxopt.quantizing.smoothing import search_scales
from onnxopt.runtime.session import open_session

RNG = np.random.default_rng(0)
SCALES = ChannelScales({"n": np.geomspace(0.5, 20, 16).astype(np.float32)})
WEIGHTS = {
    "g": RNG.standard_normal(16).astype(np.float32),
    "h": RNG.standard_normal(16).astype(np.float32),
    "w": RNG.standard_normal((16, 8)).astype(np.float32),
    "v": RNG.standard_normal((16, 8)).astype(np.float32),
    "u": RNG.standard_normal((16, 16)).astype(np.float32),
}


def build(body: str, outputs: str = "float[N, 8] y") -> ir.Model:
    return parse_model(f"g (float[N, 16] x) => ({outputs}) {{ {body} }}", {
        name: array for name, array in WEIGHTS.items() if f"{name})" in body or f"{name}," in body
    })  # fmt: skip


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("n = LayerNormalization(x, g, h) y = MatMul(n, w)", "LayerNormalization"),
        ("n = Mul(x, g) y = MatMul(n, w)", "Mul"),
        ("m = MatMul(x, u) a = Add(m, h) n = Relu(a) y = MatMul(n, w)", "MatMul"),
        ("n = Gemm(x, u, h) y = Gemm(n, w)", "Gemm"),
        ("n = LayerNormalization(x, g) a = MatMul(n, w) b = MatMul(n, v) y = Add(a, b)",
         "LayerNormalization"),
    ],
)  # fmt: skip
def test_the_division_goes_into_what_makes_the_value(body: str, rule: str) -> None:
    model = build(body)
    expect = op_types(model)
    assert_rewrites(
        SmoothActivations(scales=SCALES),
        model,
        expect=expect,
        rewrites={rule: 1},
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_mul_is_inserted_only_if_asked_for() -> None:
    body = "n = LayerNormalization(x, g, h) a = MatMul(n, u) r = Add(a, n) y = MatMul(r, w)"
    assert_refuses(SmoothActivations(scales=SCALES), build(body), "also read by")
    assert_rewrites(
        SmoothActivations(scales=SCALES, insert=True),
        build(body),
        expect=["LayerNormalization", "Mul", "MatMul", "Add", "MatMul"],
        rewrites={"inserted Mul": 1},
        rtol=1e-4,
        atol=1e-4,
    )


def test_tied_weights_are_left_alone() -> None:
    model = build(
        "n = LayerNormalization(x, g, h) y = MatMul(n, w) z = MatMul(x, w)",
        "float[N, 8] y, float[N, 8] z",
    )
    assert_refuses(SmoothActivations(scales=SCALES), model, "has other readers")


def test_scales_that_do_not_fit_are_refused() -> None:
    model = build("n = LayerNormalization(x, g, h) y = MatMul(n, w)")
    scales = ChannelScales({"n": np.ones(7, np.float32)})
    assert_refuses(SmoothActivations(scales=scales), model, "7 scales do not fit 16 channels")


def test_values_of_subgraphs_are_not_touched() -> None:
    row, matrix = ", ".join(["2"] * 16), ", ".join(["0.5"] * 128)
    model = parse_model(
        f"g (float[N, 16] x, bool c) => (float[N, 8] y)"
        f" <float[16] g = {{{row}}}, float[16, 8] w = {{{matrix}}}> {{ y = If (c) <"
        "then_branch = t () => (float[N, 8] y1) { n = Mul(x, g) y1 = MatMul(n, w) },"
        " else_branch = e () => (float[N, 8] y2) { y2 = MatMul(x, w) }> }"
    )
    feeds = {"x": np.ones((2, 16), np.float32), "c": np.asarray(True)}
    assert_rewrites(
        SmoothActivations(scales=SCALES),
        model,
        expect=["If"],
        rewrites=0,
        rtol=0,
        atol=0,
        feeds=feeds,
    )


def test_scales_come_from_data_and_not_from_text() -> None:
    with pytest.raises(InvalidInputError, match="scales of channels come from calibration data"):
        parse_passes("smooth-activations{scales=x}", (SmoothActivations,))


def searched(insert: bool, body: str) -> tuple[ir.Model, ChannelScales]:
    model = build(body)
    gains = model.graph.initializers["g"]
    array = np.ones(16, np.float32)
    array[3] = 60
    gains.const_value = ir.tensor(array, name="g")
    rng = np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((8, 16)).astype(np.float32)} for _ in range(8)]
    found = search_scales(
        model,
        open_data(samples, model),
        range(8),
        activations=Encoding(),
        weights=Encoding("int8", True),
        per_channel=True,
        max_memory=1 << 20,
        insert=insert,
    )
    return model, found


def test_an_outlier_is_found_and_the_others_keep_their_size() -> None:
    model, found = searched(False, "n = LayerNormalization(x, g) y = MatMul(n, w)")
    scales = found["n"]
    assert scales[3] > 5
    assert np.median(scales) < 2
    smoothed = model.clone()
    SmoothActivations(scales=found)(smoothed)
    feeds = {"x": np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32)}
    expected, result = (open_session(one).run(feeds)["y"] for one in (model, smoothed))
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_inserting_looks_at_what_has_no_other_way() -> None:
    body = "n = LayerNormalization(x, g) y = MatMul(n, w)"
    assert not searched(True, body)[1]
    assert list(searched(True, f"{body} z = Relu(n)")[1]) == ["n"]

"""EqualizeLayers: the same outputs from channels of like size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.graph.products import product_of
from onnxopt.passes.quantization.equalization import EqualizeLayers

IMAGE = "float[N, 4, 6, 6] x"


def uneven(*shape: int, axis: int) -> np.ndarray:
    """A weight whose channels along an axis differ by two orders of magnitude."""
    rng = np.random.default_rng(sum(shape))
    form = [1] * len(shape)
    form[axis] = -1
    sizes = 10 ** rng.uniform(-1, 1, shape[axis])
    return (rng.standard_normal(shape) * sizes.reshape(form)).astype(np.float32)


def convs(between: str, **extra: np.ndarray) -> ir.Model:
    weights = {"w": uneven(8, 4, 3, 3, axis=0), "b": uneven(8, axis=0), **extra}
    weights.setdefault("v", uneven(6, 8, 1, 1, axis=0))
    body = f"a = Conv(x, w, b) {between} y = Conv(r, v)"
    return parse_model(f"g ({IMAGE}) => (float[N, C, H, W] y) {{ {body} }}", weights)


def spread(model: ir.Model, index: int) -> float:
    """How far apart the largest weights of the output channels of a node are."""
    product = product_of([n for n in model.graph if n.op_type in ("Conv", "MatMul")][index])
    assert product is not None
    sizes = np.abs(product.matrices()).max(axis=1)
    return float(sizes.max() / sizes.min())


@pytest.mark.parametrize(
    "between",
    [
        "r = Relu(a)",
        "r = LeakyRelu<alpha=0.2>(a)",
        "m = Relu(a) r = MaxPool<kernel_shape=[2,2]>(m)",
        "m = Relu(a) r = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(m)",
        "m = Relu(a) r = GlobalAveragePool(m)",
    ],
)
def test_convs_are_equalized_through_what_scales_with_them(between: str) -> None:
    model = convs(between)
    before = spread(model, 0)
    assert_rewrites(
        EqualizeLayers(), model, expect=None, rewrites={"Conv": 1}, rtol=1e-4, atol=1e-4
    )
    assert spread(model, 0) < before / 4


def test_a_depthwise_conv_is_equalized_on_both_sides() -> None:
    model = convs(
        "m = Relu(a) d = Conv<group=8, pads=[1,1,1,1]>(m, k, c) r = Relu(d)",
        k=uneven(8, 1, 3, 3, axis=0),
        c=uneven(8, axis=0),
    )
    assert_rewrites(
        EqualizeLayers(), model, expect=None, rewrites={"Conv": 2}, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, v)",
        "a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v)",
        "a = MatMul(x, w) r = Relu(a) y = MatMul(r, v)",
    ],
)
def test_products_of_matrices_are_equalized(body: str) -> None:
    weights = {"w": uneven(16, 12, axis=1), "v": uneven(12, 5, axis=0)}
    if "b)" in body:
        weights["b"] = uneven(12, axis=0)
    model = parse_model(f"g (float[N, 16] x) => (float[N, 5] y) {{ {body} }}", weights)
    assert_rewrites(EqualizeLayers(), model, expect=None, rewrites=1, rtol=1e-4, atol=1e-4)


def test_layers_that_are_alike_are_left_alone() -> None:
    weights = {"w": np.ones((8, 4, 1, 1), np.float32), "v": np.ones((6, 8, 1, 1), np.float32)}
    body = "a = Conv(x, w) r = Relu(a) y = Conv(r, v)"
    model = parse_model(f"g ({IMAGE}) => (float[N, C, H, W] y) {{ {body} }}", weights)
    assert_rewrites(
        EqualizeLayers(), model, expect=["Conv", "Relu", "Conv"], rewrites=0, rtol=0, atol=0
    )


def test_a_channel_of_zeros_keeps_its_size() -> None:
    weight = uneven(8, 4, 3, 3, axis=0)
    weight[3] = 0
    model = convs("r = Relu(a)", w=weight, b=np.zeros(8, np.float32))
    assert_rewrites(EqualizeLayers(), model, expect=None, rewrites=1, rtol=1e-4, atol=1e-4)


def test_tied_weights_are_never_changed() -> None:
    shared = uneven(8, 4, 3, 3, axis=0)
    model = parse_model(
        f"g ({IMAGE}) => (float[N, C, H, W] y, float[N, D, I, J] z)"
        " { a = Conv(x, w) r = Relu(a) y = Conv(r, v) z = Conv(x, w) }",
        {"w": shared, "v": uneven(6, 8, 1, 1, axis=0)},
    )
    assert_refuses(EqualizeLayers(), model, "has other readers")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("r = Clip(a, zero, six) y = Conv(r, v)", "a Clip in front of it"),
        ("r = Relu(a) y = Conv(r, v) z = Exp(r)", "also read by"),
        ("r = Relu(a) y = Conv(r, v) z = Exp(a)", "read by others"),
    ],
)
def test_what_cannot_be_scaled_is_refused_with_the_reason(body: str, reason: str) -> None:
    second = ", float[N, D, I, J] z" if "z =" in body else ""
    constants: dict[str, Any] = {"w": uneven(8, 4, 3, 3, axis=0), "v": uneven(6, 8, 1, 1, axis=0)}
    if "zero" in body:
        constants |= {"zero": np.float32(0), "six": np.float32(6)}
    model = parse_model(
        f"g ({IMAGE}) => (float[N, C, H, W] y{second}) {{ a = Conv(x, w) {body} }}", constants
    )
    assert_refuses(EqualizeLayers(), model, reason)


def test_layers_in_a_subgraph_are_equalized() -> None:
    body = "a = Conv(x, w) r = Relu(a) y1 = Conv(r, v)"
    model = parse_model(
        f"g ({IMAGE}, bool c) => (float[N, C, H, W] y) {{ y = If (c) <"
        f"then_branch = t () => (float[N, C, H, W] y1) {{ {body} }},"
        " else_branch = e () => (float[N, C, H, W] y2) { y2 = Conv(x, u) }> }",
    )
    inner = model.graph[0].attributes["then_branch"].as_graph()
    outer = model.graph
    for name, array in (
        ("w", uneven(8, 4, 3, 3, axis=0)),
        ("v", uneven(6, 8, 1, 1, axis=0)),
        ("u", uneven(6, 4, 3, 3, axis=0)),
    ):
        readers = [
            value
            for graph in (inner, model.graph[0].attributes["else_branch"].as_graph())
            for node in graph
            for value in node.inputs
            if value is not None and value.name == name
        ]
        for value in readers:
            value.const_value = ir.tensor(array, name=name)
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
            (inner if name != "u" else outer).initializers[name] = value
    feeds = {
        "x": np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32),
        "c": np.asarray(True),
    }
    assert_rewrites(
        EqualizeLayers(), model, expect=["If"], rewrites=1, rtol=1e-4, atol=1e-4, feeds=feeds
    )

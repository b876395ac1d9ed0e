"""Products: rows and matrices give what the node computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

from onnxopt.graph.products import product_of

CASES = {
    "Conv in groups": (
        "Conv<group=2, pads=[1,2,0,1], strides=[2,1], dilations=[1,2]>(x, w)",
        (2, 4, 9, 10),
        (6, 2, 3, 3),
    ),
    "Conv, same at the upper end": (
        'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)',
        (2, 4, 9, 10),
        (6, 4, 3, 4),
    ),
    "Conv, same at the lower end": ('Conv<auto_pad="SAME_LOWER">(x, w)', (2, 4, 9), (6, 4, 4)),
    "Conv, valid": ('Conv<auto_pad="VALID">(x, w)', (1, 4, 9), (6, 4, 4)),
    "depthwise": ("Conv<group=4>(x, w)", (2, 4, 5, 5), (8, 1, 3, 3)),
    "MatMul": ("MatMul(x, w)", (2, 3, 5), (5, 7)),
    "Gemm": ("Gemm(x, w)", (3, 5), (5, 7)),
    "Gemm, transposed": ("Gemm<transB=1>(x, w)", (3, 5), (7, 5)),
}


def build(case: str) -> ir.Model:
    body, data, weight = CASES[case]
    rng = np.random.default_rng(0)
    shape = ", ".join(map(str, data))
    symbols = ", ".join("ABCD"[: len(data)])
    return parse_model(
        f"g (float[{shape}] x) => (float[{symbols}] y) {{ y = {body} }}",
        {"w": rng.standard_normal(weight).astype(np.float32)},
    )


@pytest.mark.parametrize("case", CASES)
def test_rows_times_the_matrix_is_the_product(case: str) -> None:
    model = build(case)
    rng = np.random.default_rng(1)
    data = rng.standard_normal(CASES[case][1]).astype(np.float32)
    (expected,) = run(model, {"x": data})
    product = product_of(model.graph[0])
    assert product is not None
    found = product.rows(data, 10**6, rng) @ product.matrices()
    is_conv = model.graph[0].op_type == "Conv"
    flat = np.moveaxis(expected, 1, -1) if is_conv else expected
    flat = flat.reshape(-1, flat.shape[-1])
    np.testing.assert_allclose(
        found.transpose(1, 0, 2).reshape(len(flat), -1), flat, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(product.stored(product.matrices()), stored_weight(model))
    assert product.rows(data, 2, rng).shape == (product.groups, 2, product.length)


def stored_weight(model: ir.Model) -> np.ndarray:
    value = model.graph.initializers["w"].const_value
    assert value is not None
    return value.numpy()


@pytest.mark.parametrize(
    "body",
    ["Gemm<alpha=2.0>(x, w)", "Gemm<transA=1>(x, w)", "MatMul(w, x)", "Add(x, w)"],
)
def test_what_is_no_plain_product_is_none(body: str) -> None:
    model = parse_model(
        f"g (float[4, 4] x) => (float[4, 4] y) {{ y = {body} }}",
        {"w": np.ones((4, 4), np.float32)},
    )
    assert product_of(model.graph[0]) is None

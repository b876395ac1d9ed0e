"""Rows of products: as many from every sample, and none of what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rewriting import parse_model

from onnxopt.calibration.data import open_data
from onnxopt.calibration.product_rows import product_rows
from onnxopt.graph.products import product_of
from onnxopt.runtime.diagnosis.probing import Probe


@pytest.mark.parametrize("max_memory", [1, 1 << 20])
def test_rows_of_all_finite_products_are_yielded(max_memory: int) -> None:
    rng = np.random.default_rng(0)
    model = parse_model(
        "g (float[N, 8] x) => (float[N, 4] y, float[N, 4] z)"
        " { a = Relu(x) y = MatMul(a, w) l = Log(x) z = MatMul(l, v) }",
        {name: rng.standard_normal((8, 4)).astype(np.float32) for name in "wv"},
    )
    samples = [{"x": rng.standard_normal((300, 8)).astype(np.float32)} for _ in range(4)]
    probe, data = Probe(model), open_data(samples, model)
    products = [p for node in probe.model.graph if (p := product_of(node)) is not None]
    found = list(product_rows(probe, products, data, range(len(data)), max_memory=max_memory))
    assert [product.data.name for product, _ in found] == ["a"]  # logarithms were NaN
    ((_, rows),) = found
    assert 512 <= rows.shape[1] <= 512 + len(data)
    assert rows.shape[2] == 8
    assert rows.min() >= 0

"""BatchNormalization as a product: what it computes, and what is written back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers.rewriting import parse_model, random_feeds, run

from onnxopt.graph.batch_norms import batch_norms

_NUMBERS = {
    "s": np.array([1, -2, 0.5], np.float32),
    "b": np.array([0, 1, -1], np.float32),
    "m": np.array([3, 0.5, -2], np.float32),
    "v": np.array([4, 0.25, 1], np.float32),
}


def _model(extra: str = "", numbers: str = "s, b, m, v") -> ir.Model:
    return parse_model(
        f"""g (float[N,3,5] x) => (float[N,3,5] y)
        {{ y = BatchNormalization<epsilon=0.01{extra}>(x, {numbers}) }}""",
        {name: array for name, array in _NUMBERS.items() if name in numbers},
    )


def test_matrices_are_what_the_operator_computes() -> None:
    model = _model()
    (site,) = batch_norms(model)
    feeds = random_feeds(model, {"N": 4})
    (y,) = run(model, feeds)
    x, wanted = site.rows(feeds["x"], y, 10, np.random.default_rng(0))
    assert x.shape == wanted.shape == (10, 3, 1)
    found = np.einsum("rgi,gio->rgo", x, site.matrices()) + site.bias_array()[:, None]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_is_stored_is_computed() -> None:
    model = _model()
    (site,) = batch_norms(model)
    factors, shift = np.array([2.0, 3.0, -1.0]), np.array([0.5, 0.0, 7.0])
    site.store(factors.reshape(-1, 1, 1), shift)
    feeds = random_feeds(model, {"N": 2})
    wanted = feeds["x"] * factors[:, None] + shift[:, None]
    np.testing.assert_allclose(run(model, feeds)[0], wanted, rtol=1e-5, atol=1e-5)
    # Without a shift of its own the old one stays.
    before = site.bias_array()
    site.store(2 * site.matrices(), None)
    np.testing.assert_allclose(site.bias_array(), before, atol=1e-6)


def test_shared_numbers_and_training_are_left_out() -> None:
    assert not list(batch_norms(_model(numbers="s, s, m, v")))
    assert not list(batch_norms(_model(extra=", training_mode=1")))

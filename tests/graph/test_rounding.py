"""Rounding against second moments beats the nearest integers, in every group."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.graph.rounding import round_with_moments


@pytest.mark.parametrize(("groups", "length"), [(1, 48), (3, 9), (1, 200)])
def test_the_error_of_the_product_shrinks_on_other_data(groups: int, length: int) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((groups, length, length))
    spread = np.geomspace(1, 0.05, length)[:, None]

    def rows(count: int) -> np.ndarray:
        return (rng.standard_normal((groups, count, length)) @ (spread * mixing)).astype(np.float32)

    weight = rng.standard_normal((groups, length, 16)).astype(np.float32)
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    seen, other = rows(4 * length), rows(400)
    integers = round_with_moments(weight, scale, seen.transpose(0, 2, 1) @ seen, 127)
    assert np.abs(integers).max() <= 127
    assert np.abs(integers - weight / scale).max() < 8

    def errors(chosen: np.ndarray) -> np.ndarray:
        return np.linalg.norm(other @ (chosen * scale - weight), axis=(1, 2))

    assert (errors(integers) < 0.8 * errors(np.rint(weight / scale))).all()


def test_independent_inputs_give_the_nearest_integers() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 20, 5)).astype(np.float32)
    scale = np.full((1, 1, 5), 0.02, np.float32)
    found = round_with_moments(weight, scale, np.eye(20, dtype=np.float32)[None], 1000)
    np.testing.assert_array_equal(found, np.rint(weight / scale))


def test_inputs_that_are_always_zero_do_not_matter() -> None:
    weight = np.full((1, 3, 2), 0.5, np.float32)
    found = round_with_moments(weight, np.float32(0.1), np.zeros((1, 3, 3), np.float32), 127)
    np.testing.assert_array_equal(found, np.full((1, 3, 2), 5))

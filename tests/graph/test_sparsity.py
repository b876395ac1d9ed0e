"""Masks: what goes, and how well the rest makes up for it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.graph.sparsity import (
    activation_scores,
    least,
    product_error,
    solve_sparse,
)


@pytest.mark.parametrize(("share", "count"), [(0.29, 29), (0.5, 50), (0.999, 99)])
def test_the_smallest_of_a_weight_go(share: float, count: int) -> None:
    scores = np.random.default_rng(0).permutation(100).reshape(1, 20, 5).astype(np.float64)
    gone = least(scores, "unstructured", share)
    np.testing.assert_array_equal(gone, scores < count)


def test_every_output_loses_as_many_when_asked_for() -> None:
    scores = np.random.default_rng(0).random((2, 12, 5)) * np.arange(1, 6)
    gone = least(scores, "unstructured", 0.5, by_output=True)
    assert (gone.sum(axis=1) == 6).all()


def test_two_of_four_neighbours_go() -> None:
    scores = np.array([4, 1, 3, 2, 1, 1, 1, 1, 0, 0, 5, 0.0]).reshape(1, 12, 1)
    gone = least(scores, "2:4", 0.5)
    expected = [0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    np.testing.assert_array_equal(gone.reshape(-1), np.array(expected, bool))


def test_a_small_weight_of_a_large_input_stays() -> None:
    weight = np.array([1.0, 0.5]).reshape(1, 2, 1)
    moments = np.diag([1.0, 9.0])[None]
    gone = least(activation_scores(weight, moments), "unstructured", 0.5)
    np.testing.assert_array_equal(gone.reshape(-1), [True, False])


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize(("groups", "length"), [(1, 200), (3, 36)])
def test_what_stays_makes_up_for_what_went_on_other_data(
    pattern: str, groups: int, length: int
) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((groups, length, length)) * np.geomspace(1, 0.05, length)[:, None]
    weight = rng.standard_normal((groups, length, 16))

    def moments(count: int) -> np.ndarray:
        rows = rng.standard_normal((groups, count, length)) @ mixing
        return np.swapaxes(rows, 1, 2) @ rows / count

    seen, other = moments(6 * length), moments(6 * length)
    solved, chosen = (
        solve_sparse(weight, seen, pattern, 0.5, damping=0.02, update=update)
        for update in (True, False)
    )
    plain = np.where(least(np.abs(weight), pattern, 0.5), 0, weight)
    errors = [product_error(weight, one, other) for one in (solved, plain)]
    assert errors[0] < 0.65 * errors[1]
    assert (solved == 0).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(chosen[chosen != 0], weight[chosen != 0], rtol=1e-6)
    if pattern == "2:4":
        assert ((solved.reshape(groups, -1, 4, 16) == 0).sum(axis=2) == 2).all()


def test_what_reads_a_dead_input_goes_first() -> None:
    weight = np.array([[9.0], [1.0], [2.0], [8.0]])[None]
    moments = np.diag([0.0, 1.0, 1.0, 0.0])[None]
    solved = solve_sparse(weight, moments, "unstructured", 0.5, damping=0.01)
    np.testing.assert_allclose(solved.reshape(-1), [0, 1, 2, 0])

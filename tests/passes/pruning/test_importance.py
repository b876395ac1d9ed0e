"""Which units matter, on inputs where that is known."""

from __future__ import annotations

import numpy as np

from onnxopt.passes.pruning.importance import ConsumerInput, lost_energy, removal_order

_RNG = np.random.default_rng(0)


def _inputs(x: np.ndarray, weight: np.ndarray, units: list[int] | None = None) -> ConsumerInput:
    moments = np.cov(x.T, bias=True)
    return ConsumerInput(moments, weight, np.array(units or range(len(weight)), np.int64))


def test_a_copy_goes_first_when_repair_is_foreseen() -> None:
    x = _RNG.normal(size=(500, 5))
    x[:, 3] = x[:, 1] + 0.01 * _RNG.normal(size=500)
    order, costs = removal_order([_inputs(x, np.ones((5, 2)))], 5)
    assert order[0] in (1, 3)
    # The other one of the pair speaks for both now: it goes last.
    assert order[-1] in (1, 3)
    assert costs[0] < 0.1 * costs[1]


def test_units_with_several_positions_go_as_one() -> None:
    x = _RNG.normal(size=(500, 6))
    x[:, 2:4] = x[:, 4:6]
    order, _ = removal_order([_inputs(x, np.ones((6, 2)), [0, 0, 1, 1, 2, 2])], 3)
    assert sorted(order) == [0, 1, 2]
    assert order[0] in (1, 2)
    assert order[1] == 0


def test_costs_are_the_errors_of_the_best_repair() -> None:
    x = _RNG.normal(size=(4000, 4)) @ (np.eye(4) + 0.3 * _RNG.normal(size=(4, 4)))
    weight = _RNG.normal(size=(4, 3))
    order, costs = removal_order([_inputs(x, weight)], 4)
    kept = np.delete(np.arange(4), order[0])
    centered, y = x - x.mean(0), (x - x.mean(0)) @ weight
    rest = y - centered[:, kept] @ np.linalg.lstsq(centered[:, kept], y, rcond=None)[0]
    expected = np.square(rest).sum() / np.square(y).sum()
    # The moments are damped a little.
    np.testing.assert_allclose(costs[0], expected, rtol=0.1)


def test_energy_counts_activation_and_weight() -> None:
    x = _RNG.normal(size=(500, 3)) * [1, 3, 1]
    shares = lost_energy([_inputs(x, np.diag([2.0, 1, 1]))], 3)
    assert np.argsort(-shares).tolist() == [1, 0, 2]
    np.testing.assert_allclose(shares.sum(), 1)


def test_silent_inputs_cost_nothing() -> None:
    order, costs = removal_order([_inputs(np.zeros((10, 3)), np.ones((3, 2)))], 3)
    assert sorted(order) == [0, 1, 2]
    assert not costs.any()

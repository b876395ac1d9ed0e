"""Least squares on moments: against a fit on the activations themselves."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.pruning.refitting import Moments, PairedMoments, choose_ridge, refit

_RNG = np.random.default_rng(0)
_MIX = _RNG.normal(size=(4, 6))
_X = (_RNG.normal(size=(400, 4)) @ _MIX + 0.3 * _RNG.normal(size=(400, 6)) + 2).astype(np.float32)
_W = _RNG.normal(size=(6, 3))
_KEPT = np.array([True, True, False, True, False, True])
_Y = (_X @ _W).astype(np.float32)


def _moments(x: np.ndarray, y: np.ndarray, *, centered: bool = True) -> Moments:
    sums = PairedMoments(x[:8], y[:8])
    for start in range(0, len(x), 100):
        sums.add(x[start : start + 100], y[start : start + 100])
    return sums.settled(centered=centered)


def _intercept(moments: Moments, weight: np.ndarray) -> np.ndarray:
    return moments.mean_y - moments.mean_x @ weight


def test_agrees_with_a_fit_on_activations_with_a_bias() -> None:
    moments = _moments(_X[:, _KEPT], _Y)
    weight = refit(_W[_KEPT], moments, ridge=0)
    design = np.hstack([_X[:, _KEPT], np.ones((len(_X), 1))])
    expected = np.linalg.lstsq(design, _Y, rcond=None)[0]
    np.testing.assert_allclose(weight, expected[:-1], atol=1e-4)
    np.testing.assert_allclose(_intercept(moments, weight), expected[-1], atol=1e-3)


def test_agrees_with_a_fit_on_activations_without_a_bias() -> None:
    weight = refit(_W[_KEPT], _moments(_X[:, _KEPT], _Y, centered=False), ridge=0)
    expected = np.linalg.lstsq(_X[:, _KEPT], _Y, rcond=None)[0]
    np.testing.assert_allclose(weight, expected, atol=1e-3)


def test_error_is_that_of_the_activations() -> None:
    moments = _moments(_X[:, _KEPT], _Y)
    rest = _Y - _X[:, _KEPT] @ _W[_KEPT]
    rest = rest - rest.mean(axis=0)
    spread = np.square(_Y - _Y.mean(axis=0)).sum()
    assert moments.error(_W[_KEPT]) == pytest.approx(np.square(rest).sum() / spread, rel=1e-4)


def test_spread_survives_when_means_are_large() -> None:
    shifted = _X + 3000
    moments = _moments(shifted, (shifted @ _W).astype(np.float32))
    np.testing.assert_allclose(moments.xx, np.cov(_X.T, bias=True), rtol=2e-2, atol=2e-2)


def test_merged_sums_are_those_of_all_rows() -> None:
    one, other = PairedMoments(_X[:8], _Y[:8]), PairedMoments(_X[:8], _Y[:8])
    one.add(_X[:150], _Y[:150])
    other.add(_X[150:], _Y[150:])
    one.merge(other)
    np.testing.assert_allclose(one.settled(centered=True).xy, _moments(_X, _Y).xy, rtol=1e-4)


def test_held_out_rows_choose_the_ridge_or_nothing() -> None:
    fitting, held_out = _moments(_X[:300, _KEPT], _Y[:300]), _moments(_X[300:, _KEPT], _Y[300:])
    choice = choose_ridge(_W[_KEPT], fitting, held_out)
    assert choice.ridge is not None
    assert choice.after < 0.6 * choice.before
    # Nothing is better than a weight that is right already.
    exact = choose_ridge(_W, _moments(_X[:300], _Y[:300]), _moments(_X[300:], _Y[300:]))
    assert exact.after <= exact.before < 1e-6


def test_weights_stay_when_inputs_never_vary() -> None:
    x = np.tile(_RNG.random(6).astype(np.float32), (16, 1))
    moments = _moments(x[:, _KEPT], (x @ _W).astype(np.float32))
    np.testing.assert_array_equal(refit(_W[_KEPT], moments, 1e-3), _W[_KEPT])


def test_bad_input_is_named() -> None:
    moments = _moments(_X, _Y)
    with pytest.raises(InvalidInputError, match="do not fit"):
        refit(_W[:5], moments, 1e-3)
    with pytest.raises(InvalidInputError, match="NaN"):
        refit(_W * np.nan, moments, 1e-3)

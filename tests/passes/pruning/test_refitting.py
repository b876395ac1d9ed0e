"""Least squares on moments: against a fit on the activations themselves."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.pruning.refitting import refit

_RNG = np.random.default_rng(0)
_MIX = _RNG.normal(size=(4, 6))
_X = _RNG.normal(size=(200, 4)) @ _MIX + 0.3 * _RNG.normal(size=(200, 6)) + 2
_W = _RNG.normal(size=(6, 3))
_KEPT = np.array([True, True, False, True, False, True])


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.T @ x / len(x), x.mean(axis=0)


def test_agrees_with_a_fit_on_activations() -> None:
    weight, shift = refit(_W, *_moments(_X), _KEPT, ridge=0)
    design = np.hstack([_X[:, _KEPT], np.ones((len(_X), 1))])
    expected = np.linalg.lstsq(design, _X @ _W, rcond=None)[0]
    np.testing.assert_allclose(weight, expected[:-1], atol=1e-8)
    np.testing.assert_allclose(shift, expected[-1], atol=1e-8)


def test_a_copy_of_an_input_is_replaced_exactly() -> None:
    x = _X.copy()
    x[:, 2] = 3 * x[:, 0] + 1
    kept = np.arange(6) != 2
    weight, shift = refit(_W, *_moments(x), kept, ridge=0)
    np.testing.assert_allclose(x[:, kept] @ weight + shift, x @ _W, atol=1e-8)


def test_better_than_dropping_with_the_default_ridge() -> None:
    weight, shift = refit(_W, *_moments(_X), _KEPT)
    wanted = _X @ _W
    error = np.square(_X[:, _KEPT] @ weight + shift - wanted).mean()
    assert error < 0.5 * np.square(_X[:, _KEPT] @ _W[_KEPT] - wanted).mean()


def test_constant_inputs_move_into_the_bias() -> None:
    x = np.ones((5, 6))
    weight, shift = refit(_W, *_moments(x), _KEPT)
    np.testing.assert_array_equal(weight, _W[_KEPT])
    np.testing.assert_allclose(shift, _W[~_KEPT].sum(axis=0))


def test_rounding_is_no_variance() -> None:
    x = np.tile(_RNG.random(6), (7, 1))
    weight, shift = refit(_W, *_moments(x), _KEPT)
    np.testing.assert_array_equal(weight, _W[_KEPT])
    np.testing.assert_allclose(shift, x[0, ~_KEPT] @ _W[~_KEPT])


def test_bad_input_is_named() -> None:
    moments, mean = _moments(_X)
    with pytest.raises(InvalidInputError, match="keep an input"):
        refit(_W, moments, mean, np.zeros(6, bool))
    with pytest.raises(InvalidInputError, match="do not fit"):
        refit(_W[:5], moments, mean, _KEPT)
    with pytest.raises(InvalidInputError, match="NaN"):
        refit(_W, moments * np.nan, mean, _KEPT)

"""Ranges from statistics."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.calibration.observers import METHODS, choose_range
from onnxopt.calibration.statistics import Statistics
from onnxopt.graph.quantization import Encoding, dequantize, parameters, quantize


def seen(*batches: np.ndarray) -> Statistics:
    statistics = Statistics()
    for batch in batches:
        statistics.add(batch)
    return statistics


def normal_with_outlier(outlier: float = 100.0) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    x[7] = outlier
    return x


def test_min_max_is_what_occurred() -> None:
    assert choose_range(seen(np.array([-3.0, 2.0]), np.array([5.0])), "min-max", Encoding()) == (
        -3,
        5,
    )


def test_moving_average_is_the_mean_over_batches() -> None:
    statistics = seen(np.array([-2.0, 2.0]), np.array([-4.0, 6.0]))
    assert choose_range(statistics, "moving-average", Encoding()) == (-3.0, 4.0)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_an_outlier_is_clipped(method: str) -> None:
    low, high = choose_range(seen(normal_with_outlier()), method, Encoding(), percentile=99.99)
    assert high < 50
    assert high > 2
    assert low < -2


@pytest.mark.parametrize("type_", ["uint8", "int8", "uint16"])
def test_mse_has_the_smallest_error(type_: str) -> None:
    encoding = Encoding(type_)
    x = normal_with_outlier(30.0)
    statistics = seen(x)

    def error(method: str) -> float:
        params = parameters(*choose_range(statistics, method, encoding), encoding)
        return float(np.square(dequantize(quantize(x, params), params) - x).mean())

    assert error("mse") <= min(map(error, METHODS)) * 1.02


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "x", [np.zeros(5), np.full(4, 7.0), np.array([0.0, 1.0]), np.full(3, -2e-30)]
)
def test_degenerate_tensors_have_a_range_inside_of_what_occurred(
    method: str, x: np.ndarray
) -> None:
    low, high = choose_range(seen(x), method, Encoding())
    assert min(x.min(), 0) * 1.001 <= low <= high <= max(x.max(), 0) * 1.001


def test_values_of_relu_stay_positive() -> None:
    x = np.maximum(normal_with_outlier(), 0)
    for method in METHODS:
        assert choose_range(seen(x), method, Encoding())[0] == 0


def test_infinite_values_are_counted_apart() -> None:
    statistics = seen(np.array([1.0, np.inf, np.nan, -1.0]))
    assert (statistics.infinite, statistics.low, statistics.high) == (2, -1.0, 1.0)

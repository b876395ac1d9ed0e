"""The streaming histogram."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt.calibration.histogram import MOST_BINS, Histogram

values = st.floats(-(2.0**60), 2.0**60, width=32).map(lambda x: x if abs(x) > 1e-9 else 0.0)
batches = st.lists(
    hnp.arrays(np.float32, st.integers(1, 30), elements=values), min_size=1, max_size=5
)


def filled(parts: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part, float(part.min()), float(part.max()))
    return histogram


@settings(max_examples=50, deadline=None)
@given(batches)
def test_every_value_is_counted_in_its_bin(parts: list[np.ndarray]) -> None:
    histogram = filled(parts)
    everything = np.concatenate(parts).astype(np.float64)
    assert histogram.counts.sum() == everything.size
    assert len(histogram.counts) <= MOST_BINS
    edges = histogram.edges
    expected = [
        np.sum((everything >= low) & (everything < high))
        for low, high in zip(
            edges[:-1][histogram.counts > 0], edges[1:][histogram.counts > 0], strict=True
        )
    ]
    assert histogram.counts[histogram.counts > 0].tolist() == expected


@settings(max_examples=50, deadline=None)
@given(batches, st.randoms())
def test_order_of_batches_does_not_matter(parts: list[np.ndarray], random: object) -> None:
    one, other = filled(parts), filled(parts[::-1])
    assert (one.exponent, one.start) == (other.exponent, other.start)
    np.testing.assert_array_equal(one.counts, other.counts)


def test_bins_stay_fine_where_ranges_are_ordinary() -> None:
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    histogram = filled([x])
    assert histogram.width < 2 * np.abs(x).max() / 1000


def test_a_later_outlier_widens_the_bins() -> None:
    histogram = filled([np.array([1.0, -1.0], np.float32), np.array([1e6], np.float32)])
    assert histogram.counts.sum() == 3
    assert histogram.edges[-1] > 1e6

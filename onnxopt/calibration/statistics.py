"""What one run over the data keeps of a tensor: enough for every way to choose a range."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.calibration.histogram import Histogram


@dataclasses.dataclass
class Statistics:
    """A tensor's values over all batches.

    Attributes:
        low: The smallest finite one.
        high: The largest finite one.
        mean_low: Mean over batches of the smallest.
        mean_high: Mean over batches of the largest.
        batches: Number of batches with values.
        infinite: Number of values that are NaN or infinite, which are not counted otherwise.
        histogram: Of all finite values; empty where only the extremes are known.
        channels: Largest magnitude by index of the last axis, where asked for.
        means: Mean over batches by channel: axis 1 of images, the last axis of all else.
    """

    low: float = 0.0
    high: float = 0.0
    mean_low: float = 0.0
    mean_high: float = 0.0
    batches: int = 0
    infinite: int = 0
    histogram: Histogram = dataclasses.field(default_factory=Histogram)
    channels: NDArray[np.float32] | None = None
    means: NDArray[np.float32] | None = None

    def add(self, array: NDArray[Any], *, by_channel: bool = False) -> None:
        """Takes one batch in.

        Args:
            array: Floating-point values of any shape.
            by_channel: Keep the largest magnitude by index of the last axis as well.
        """
        array = array.astype(np.float32, copy=False)
        finite = np.isfinite(array)
        if not finite.all():
            self.infinite += int(array.size - finite.sum())
            array = array[finite]
            by_channel = False
        if not array.size:
            return
        low, high = float(array.min()), float(array.max())
        self._widen(low, high)
        self.histogram.add(array, low, high)
        if array.ndim > 1:
            self._add_means(array)
        if by_channel and array.ndim:
            found = np.abs(array).max(axis=tuple(range(array.ndim - 1)))
            known = self.channels
            same = known is not None and known.shape == found.shape
            self.channels = np.maximum(known, found) if same and known is not None else found

    def add_extremes(self, low: float, high: float) -> None:
        """Takes one batch in of which no more is known; every method keeps all of it."""
        if not (np.isfinite(low) and np.isfinite(high)):
            self.infinite += 1
            return
        self._widen(low, high)

    def _widen(self, low: float, high: float) -> None:
        first = self.batches == 0
        self.low = low if first else min(low, self.low)
        self.high = high if first else max(high, self.high)
        self.batches += 1
        self.mean_low += (low - self.mean_low) / self.batches
        self.mean_high += (high - self.mean_high) / self.batches

    def _add_means(self, array: NDArray[Any]) -> None:
        axis = 1 if array.ndim > 3 else array.ndim - 1
        others = tuple(index for index in range(array.ndim) if index != axis)
        found = array.mean(axis=others, dtype=np.float64).astype(np.float32)
        if self.means is None or self.means.shape != found.shape:
            self.means = found
        else:
            self.means += (found - self.means) / np.float32(self.batches)

"""A histogram of values that stream by, of bounded size, whatever range they turn out to have.

Bins are as wide as a power of two and one begins at zero. When values come that would need more
than `MOST_BINS` bins, the width is doubled until they fit: two old bins are exactly one new one, so
the result depends only on the values, not on their order or on how they were cut into batches.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 1 << 14
# A single value needs one bin only; more decimals of it are not worth having.
_FINEST = MOST_BINS >> 2
_SMALLEST_EXPONENT = -120


@dataclasses.dataclass
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        exponent: Bins are 2 ** exponent wide.
        start: Index of the first bin; bin i holds [i, i + 1) times the width.
        counts: Number of values in each bin, int64.
    """

    exponent: int = _SMALLEST_EXPONENT
    start: int = 0
    counts: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middle of every bin; the bin of zero counts as zero itself, as most of it is."""
        indexes = np.arange(self.start, self.start + len(self.counts), dtype=np.float64)
        centers: NDArray[np.float64] = (indexes + 0.5) * self.width
        centers[indexes == 0] = 0.0
        return centers

    @property
    def edges(self) -> NDArray[np.float64]:
        """Lower ends of the bins and the upper end of the last one."""
        indexes = np.arange(self.start, self.start + len(self.counts) + 1, dtype=np.float64)
        return indexes * self.width

    def add(self, values: NDArray[Any], low: float, high: float) -> None:
        """Counts values.

        Args:
            values: Finite numbers.
            low: The smallest of them.
            high: The largest.
        """
        if not values.size:
            return
        self._widen(low, high)
        # The product with a power of two is exact, but for numbers that are almost zero.
        bins = np.floor(values.reshape(-1) * values.dtype.type(1 / self.width)).astype(np.int64)
        first, last = int(bins.min()), int(bins.max())
        if len(self.counts):
            first = min(first, self.start)
            last = max(last, self.start + len(self.counts) - 1)
        self._extend(first, last)
        self.counts += np.bincount(bins - self.start, minlength=len(self.counts))

    def _widen(self, low: float, high: float) -> None:
        """Makes bins so wide that everything fits."""
        largest = max(abs(low), abs(high))
        exponent = self.exponent
        if largest > 0:
            exponent = max(exponent, math.frexp(largest)[1] - int(math.log2(_FINEST)))
        if len(self.counts):
            low = min(low, self.start * self.width)
            high = max(high, (self.start + len(self.counts) - 1) * self.width)
        while (
            math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent))
            >= MOST_BINS
        ):
            exponent += 1
        shift = exponent - self.exponent
        self.exponent = exponent
        if not (shift and len(self.counts)):
            return
        old = np.arange(self.start, self.start + len(self.counts))
        new = old >> min(shift, 62)
        self.start = int(new[0])
        self.counts = np.bincount(new - self.start, weights=self.counts).astype(np.int64)

    def _extend(self, first: int, last: int) -> None:
        if len(self.counts) and first == self.start and last == first + len(self.counts) - 1:
            return
        counts = np.zeros(last - first + 1, np.int64)
        if len(self.counts):
            offset = self.start - first
            counts[offset : offset + len(self.counts)] = self.counts
        self.start, self.counts = first, counts

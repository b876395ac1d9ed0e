"""Errors by slice of an output: by column, channel and row, each relative to its own size.

One scale for a whole output hides faults: beside boxes in pixels a score is nothing, beside a
column of -1e7 nothing is anything. So every slice has a scale of its own, the root mean square of
the reference's entries in it. The worst slice of each order of magnitude is kept: slices that
nearly cancel out are noisier than large ones, and have to be held against their own like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Of fewer entries the noise of one run says nothing about that of another.
_FEWEST_ENTRIES = 16
# Slices smaller than this, relative to the output's scale or at all, are judged with the whole.
_SMALLEST_SHARE = 1e-6
_SMALLEST_SCALE = 1e-8

Array = NDArray[np.float64]


class SliceErrors:
    """Collects the errors of one output, some rows at a time.

    Args:
        shape: Shape of the output.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._columns = shape[-1] if shape else 1
        size = math.prod(shape)
        self._rows = size // self._columns if self._columns else 0
        # In [batch, channel, ...] row r belongs to channel (r // inner) % channels.
        self._channels = shape[1] if len(shape) > 2 else 0
        self._inner = math.prod(shape[2:-1])
        self._by_column = np.zeros((2, self._columns if self._has_columns else 0))
        self._by_channel = np.zeros((2, self._channels if self._has_channels else 0))
        self._by_row: list[Array] = []

    @property
    def _has_columns(self) -> bool:
        return self._columns > 1 and self._rows >= _FEWEST_ENTRIES

    @property
    def _has_channels(self) -> bool:
        if self._channels < 2:
            return False
        return self._rows * self._columns // self._channels >= _FEWEST_ENTRIES

    def add(self, start: int, energies: tuple[Array, Array]) -> None:
        """Adds rows.

        Args:
            start: Number of the first.
            energies: Squares of the errors and of the reference, `[rows, columns]`.
        """
        by_row = np.stack([array.sum(axis=1) for array in energies])
        if self._has_columns:
            self._by_column += np.stack([array.sum(axis=0) for array in energies])
        if self._has_channels:
            places = (np.arange(start, start + by_row.shape[1]) // self._inner) % self._channels
            for total, row in zip(self._by_channel, by_row, strict=True):
                total += np.bincount(places, weights=row, minlength=self._channels)
        if self._rows > 1 and self._columns >= _FEWEST_ENTRIES:
            self._by_row.append(by_row)

    def worst(self, scale: float) -> dict[int, float]:
        """Order of magnitude (3 for thousands) to the largest error of a slice of that size.

        Args:
            scale: Of the whole output.
        """
        found: dict[int, float] = {}
        groups = [(self._by_column, self._rows)]
        if self._has_channels:
            groups.append((self._by_channel, self._rows * self._columns // self._channels))
        if self._by_row:
            groups.append((np.concatenate(self._by_row, axis=1), self._columns))
        for energies, count in groups:
            errors, sizes = np.sqrt(energies / max(count, 1))
            kept = sizes > max(_SMALLEST_SHARE * scale, _SMALLEST_SCALE)
            relative = errors[kept] / sizes[kept]
            magnitudes = np.floor(np.log10(sizes[kept])).astype(int)
            for magnitude in np.unique(magnitudes):
                error = float(relative[magnitudes == magnitude].max())
                found[int(magnitude)] = max(error, found.get(int(magnitude), 0.0))
        return found


def merged(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """The larger error of each order of magnitude."""
    return {key: max(one.get(key, 0.0), other.get(key, 0.0)) for key in {*one, *other}}


def like(errors: Mapping[int, float], magnitude: int) -> float:
    """The error of slices of this size, or of those next to it in size; smaller ones first."""
    if not errors:
        return 0.0
    nearest = min(errors, key=lambda m: (abs(m - magnitude), m))
    return errors[nearest]

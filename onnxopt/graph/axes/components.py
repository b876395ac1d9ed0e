"""Connected components of a graph given as arrays of edges, by hooking and pointer jumping."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def connected_components(count: int, edges: Iterable[tuple[Positions, Positions]]) -> Positions:
    """Numbers the components; positions that no edge touches are components of their own.

    Every round hooks each root to the smallest neighbour and halves all paths, so that the number
    of rounds is logarithmic in the length of the longest chain (Shiloach and Vishkin, 1982).

    Args:
        count: Number of positions.
        edges: Pairs of equally long arrays of positions.

    Returns:
        The component of each position, `[count]`, numbered from 0 by smallest position.
    """
    pairs = list(edges)
    parent = np.arange(count, dtype=np.int64)
    if pairs:
        one = np.concatenate([pair[0] for pair in pairs])
        other = np.concatenate([pair[1] for pair in pairs])
        while True:
            first, second = parent[one], parent[other]
            low, high = np.minimum(first, second), np.maximum(first, second)
            different = low != high
            if not different.any():
                break
            one, other = one[different], other[different]
            np.minimum.at(parent, high[different], low[different])
            while True:
                jumped = parent[parent]
                if np.array_equal(jumped, parent):
                    break
                parent = jumped
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)

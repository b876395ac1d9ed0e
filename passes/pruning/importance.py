"""How much units matter, from the weights alone.

    l1      sum of magnitudes over all slices of a unit
    l2      root of the sum of squares
    random  a baseline that any other measure has to beat

Scores are divided by their mean over the group, so that those of different groups can be ranked
together (Molchanov et al., "Pruning convolutional neural networks", 2017, normalizes by layer for
the same reason).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.axes.groups import PruningGroup, Slice

Importance = Literal["l1", "l2", "random"]
Scores = NDArray[np.float64]


def score_units(group: PruningGroup, importance: Importance, seed: int = 0) -> Scores:
    """Scores of the units of a group, `[units]`, with mean 1 (or all 0).

    Args:
        group: The group.
        importance: The measure.
        seed: For "random"; mixed with the name of the group.
    """
    if importance == "random":
        scores = np.random.default_rng([seed, *group.name.encode()]).random(len(group))
    else:
        power = 1 if importance == "l1" else 2
        scores = np.zeros(len(group))
        for item in group.slices:
            if item.role != "statistics":
                scores += sum_by_unit(item, len(group), power)
        scores = np.sqrt(scores) if power == 2 else scores
    mean = float(scores.mean())
    normalized: Scores = scores / mean if mean > 0 else scores
    return normalized


def sum_by_unit(item: Slice, units: int, power: int) -> Scores:
    """Sum of the magnitudes of a slice to a power, by unit."""
    tensor = item.value.const_value
    assert tensor is not None
    array = np.moveaxis(np.abs(tensor.numpy().astype(np.float32, copy=False)), item.axis, 0)
    rows = array.reshape(len(array), -1)
    powers = rows if power == 1 else np.square(rows)
    sums: Scores = powers.sum(axis=1, dtype=np.float64)
    present = item.units >= 0
    total: Scores = np.bincount(item.units[present], weights=sums[present], minlength=units).astype(
        np.float64
    )
    return total

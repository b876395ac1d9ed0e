"""How much units matter.

    l1          sum of magnitudes over all slices of a unit
    l2          root of the sum of squares
    random      a baseline that any other measure has to beat
    activation  energy that consumers lose: E[x^2] |w|^2 (as Wanda: Sun et al., 2023)
    hessian     what they lose after the best repair: |w_u|^2 / (C^-1)_uu with C the moments of x,
                units taken one after the other (optimal brain surgeon, Hassibi and Stork, 1993)

The first three need weights alone, the others what flows into the consumers. `score_units` gives
scores with mean 1 over the group, so that those of different groups can be ranked together
(Molchanov et al., "Pruning convolutional neural networks", 2017, normalizes by layer for the same
reason).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.axes.components import Positions
from onnxopt.graph.axes.groups import PruningGroup, Slice

Importance = Literal["l1", "l2", "random"]
Scores = NDArray[np.float64]
# Of the mean variance of the inputs, for the inverse of their moments.
_RIDGE = 1e-2
# In so many steps at least a group is emptied; units of a step do not see each other's removal.
_STEPS = 64


@dataclasses.dataclass(frozen=True)
class ConsumerInput:
    """What flows into a weight that reads the units of a group.

    Attributes:
        moments: Second moments of the inputs about their mean, `[inputs, inputs]`, or only their
            diagonal, `[inputs]`.
        weight: `[inputs, outputs]`.
        units: By input the unit of the group, or -1.
    """

    moments: NDArray[np.float64]
    weight: NDArray[np.float64]
    units: Positions


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
    return _by_unit(sums, item.units, units)


def lost_energy(inputs: Sequence[ConsumerInput], units: int) -> Scores:
    """Share of the consumers' output energy that goes with each unit, on its own."""
    total = np.zeros(units)
    for one in inputs:
        diagonal = one.moments if one.moments.ndim == 1 else np.diagonal(one.moments)
        energy = diagonal * np.square(one.weight).sum(axis=1)
        whole = float(energy.sum())
        if whole > 0:
            total += _by_unit(energy / whole, one.units, units)
    return total / max(1, len(inputs))


def removal_order(inputs: Sequence[ConsumerInput], units: int) -> tuple[Positions, Scores]:
    """In which order units go, and what each costs the consumers after the best repair.

    Costs are shares of the energy of the consumers' outputs. A step takes the units that are
    cheapest at that point, and lets those that stay take over what they can.
    """
    states = [_Inverse(one) for one in inputs]
    left = np.ones(units, bool)
    order: list[int] = []
    costs: list[float] = []
    step = max(1, units // _STEPS)
    while left.any():
        losses = np.zeros(units)
        for state in states:
            losses += state.losses(units)
        candidates = np.flatnonzero(left)
        chosen = candidates[np.argsort(losses[candidates], kind="stable")[:step]]
        order += chosen.tolist()
        costs += (losses[chosen] / max(1, len(states))).tolist()
        left[chosen] = False
        if left.any():
            for state in states:
                state.remove(chosen)
    return np.array(order, np.int64), np.array(costs)


class _Inverse:
    """The inverse moments of the inputs that are left, and the weight as repaired so far."""

    def __init__(self, one: ConsumerInput) -> None:
        self._units = one.units
        scale = float(np.trace(one.moments)) / len(one.moments)
        damped = one.moments + max(_RIDGE * scale, 1e-12) * np.eye(len(one.moments))
        self._inverse = np.linalg.inv(damped)
        self._weight = one.weight.copy()
        self._energy = float((one.weight * (one.moments @ one.weight)).sum())
        self._blocks = np.bincount(one.units[one.units >= 0], minlength=1).max(initial=1) > 1

    def losses(self, units: int) -> Scores:
        """The share of the energy that each unit would take along."""
        if self._energy <= 0:
            return np.zeros(units)
        if not self._blocks:
            diagonal = np.maximum(np.diagonal(self._inverse), 1e-30)
            lost = np.square(self._weight).sum(axis=1) / diagonal
            return _by_unit(lost / self._energy, self._units, units)
        losses = np.zeros(units)
        for unit in np.unique(self._units[self._units >= 0]):
            places = np.flatnonzero(self._units == unit)
            rows = self._weight[places]
            losses[unit] = float((rows * self._solve(places, rows)).sum()) / self._energy
        return losses

    def remove(self, chosen: Positions) -> None:
        """Takes units out; rows and columns stay as zeros."""
        places = np.flatnonzero(np.isin(self._units, chosen))
        if not len(places):
            return
        columns = self._inverse[:, places]
        self._weight -= columns @ self._solve(places, self._weight[places])
        self._inverse -= columns @ self._solve(places, columns.T)
        self._weight[places] = 0
        self._inverse[places] = 0
        self._inverse[:, places] = 0
        # What is gone costs nothing and divides nothing.
        self._inverse[places, places] = 1
        self._units = np.where(np.isin(self._units, chosen), -1, self._units)

    def _solve(self, places: Positions, right: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        block = self._inverse[np.ix_(places, places)]
        found: NDArray[np.float64] = np.linalg.solve(block, right)
        return found


def _by_unit(sums: Scores, units_of: Positions, units: int) -> Scores:
    present = units_of >= 0
    total: Scores = np.bincount(units_of[present], weights=sums[present], minlength=units).astype(
        np.float64
    )
    return total

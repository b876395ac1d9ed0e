"""The order in which the units of each group would go, and what each of them costs.

Costs are shares of the energy of what the group's consumers compute, so that those of different
groups can be ranked together. They never fall along the order: a unit goes after those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import run_samples
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.axes.components import Positions
from onnxopt.graph.axes.groups import PruningGroup
from onnxopt.graph.linear_maps import LinearMap, linear_maps
from onnxopt.passes.pruning.importance import (
    ConsumerInput,
    Scores,
    lost_energy,
    removal_order,
    score_units,
)
from onnxopt.runtime.diagnosis.probing import Probe, chunks

# The inverse of moments over more features than this takes too long.
MOST_FEATURES = 8192
# Rows wanted of each activation, in all: at least so many, and so many for each of its columns.
_FEWEST_ROWS, _ROWS_PER_COLUMN = 8192, 8


@dataclasses.dataclass(frozen=True)
class Ladder:
    """How a group is emptied.

    Attributes:
        group: The group.
        order: Its units, the least important first.
        costs: What the removal of each costs, in that order.
        measure: What the order comes from; weights alone serve where no activation can be observed.
    """

    group: PruningGroup
    order: Positions
    costs: Scores
    measure: str


def weight_ladder(group: PruningGroup, measure: Literal["l1", "l2", "random"], seed: int) -> Ladder:
    """The order by weights alone."""
    scores = score_units(group, measure, seed)
    shares = np.square(scores) if measure == "l2" else scores
    order = np.argsort(scores, kind="stable")
    return Ladder(group, order, rising(shares[order] / max(shares.sum(), 1e-30)), measure)


def activation_ladders(
    model: ir.Model,
    groups: Sequence[PruningGroup],
    measure: Literal["activation", "hessian"],
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int,
) -> list[Ladder]:
    """The orders by what flows into the consumers, a few groups at a time.

    Args:
        model: The model that the groups are of, or a copy of it.
        groups: The groups.
        measure: "activation" or "hessian".
        data: What to run on.
        samples: Indexes of the input sets to use.
        max_memory: Bytes for moments. A group that needs more, or has more than `MOST_FEATURES`, is
            ranked by activation.
    """
    readers: dict[str, list[LinearMap]] = {}
    for site in linear_maps(model):
        readers.setdefault(site.weight.name or "", []).append(site)
    wanted = {index: _consumers(group, readers) for index, group in enumerate(groups)}
    probe = Probe(model)
    full = {index: 24 * sum(len(units) ** 2 for _, units in s) for index, s in wanted.items()}
    whole = {
        index
        for index, sites in wanted.items()
        if measure == "hessian"
        and full[index] <= max_memory
        and all(len(units) <= MOST_FEATURES for _, units in sites)
    }
    needs = {
        str(index): full[index] if index in whole else 24 * sum(len(units) for _, units in sites)
        for index, sites in wanted.items()
    }
    found = []
    for part in chunks(list(needs), needs, max_memory):
        indices = [int(index) for index in part]
        moments = _moments(probe, {i: wanted[i] for i in indices}, whole, data, samples)
        found += [
            _ladder(groups[i], wanted[i], moments, measure if i in whole else "activation")
            for i in indices
        ]
    return found


_Sites = list[tuple[LinearMap, Positions]]


def _consumers(group: PruningGroup, readers: Mapping[str, Sequence[LinearMap]]) -> _Sites:
    """Nodes that sum over the units, and the unit of each of their inputs."""
    return [
        (site, item.units)
        for item in group.slices
        if item.role == "consumer"
        for site in readers.get(item.value.name or "", ())
        if site.input_axis == item.axis and site.group == 1
    ]


class _Sum:
    """Second moments in float64, of rows relative to the first ones' mean; whole or diagonal."""

    def __init__(self, rows: np.ndarray, *, whole: bool) -> None:
        self._shift = rows.mean(0, dtype=np.float32)
        self._square = np.zeros((rows.shape[1],) * (2 if whole else 1))
        self._sum = np.zeros(rows.shape[1])
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        rows = rows - self._shift
        is_whole = self._square.ndim == 2
        self._square += rows.T @ rows if is_whole else np.square(rows).sum(0, np.float64)
        self._sum += rows.sum(0, np.float64)
        self._count += len(rows)

    def moments(self, *, centered: bool) -> np.ndarray:
        """About the mean where a bias can make up for that, else about zero."""
        mean = self._sum / self._count
        product = np.outer if self._square.ndim == 2 else np.multiply
        about_mean: np.ndarray = self._square / self._count - product(mean, mean)
        mean = mean + self._shift
        return about_mean if centered else about_mean + product(mean, mean)


def _moments(
    probe: Probe,
    wanted: Mapping[int, _Sites],
    whole: Collection[int],
    data: CalibrationData,
    samples: Sequence[int],
) -> dict[str, _Sum]:
    """Of the inputs of the sites, by name; diagonal where no group needs more."""
    axes = {s.source.name or "": s.output_axis for sites in wanted.values() for s, _ in sites}
    in_full = {s.source.name or "" for i, sites in wanted.items() if i in whole for s, _ in sites}
    names = list(axes)
    sums: dict[str, _Sum] = {}
    computed = [name for name in names if name in probe.values]
    for index, one, values in run_samples(probe, computed, data, samples):
        for name in names:
            array = np.moveaxis(np.asarray(values[name], np.float32), axes[name], -1)
            rows = array.reshape(-1, array.shape[-1])
            most = max(_FEWEST_ROWS, _ROWS_PER_COLUMN * rows.shape[1]) // len(samples) + 1
            if len(rows) > most:
                rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
            if not np.isfinite(rows).all():
                raise InvalidInputError(
                    f"value {name!r} is NaN or infinite on calibration sample {index} "
                    f"({one.description})"
                )
            if name not in sums:
                sums[name] = _Sum(rows, whole=name in in_full)
            sums[name].add(rows)
    return sums


def _ladder(
    group: PruningGroup, sites: _Sites, moments: Mapping[str, _Sum], measure: str
) -> Ladder:
    if not sites:
        return dataclasses.replace(weight_ladder(group, "l2", 0), measure="l2")
    inputs = []
    for site, units in sites:
        (matrix,) = site.matrices()
        # Positions of a kernel count as outputs of their own.
        weight = matrix.reshape(len(units), -1)
        centered = site.adds_bias or site.bias is not None
        found = moments[site.source.name or ""].moments(centered=centered)
        inputs.append(ConsumerInput(found, weight, units))
    if measure == "hessian":
        order, costs = removal_order(inputs, len(group))
        return Ladder(group, order, rising(costs), measure)
    scores = lost_energy(inputs, len(group))
    order = np.argsort(scores, kind="stable")
    return Ladder(group, order, rising(scores[order]), measure)


def rising(costs: Scores) -> Scores:
    """Costs that never fall along an order."""
    found: Scores = np.maximum.accumulate(costs)
    return found

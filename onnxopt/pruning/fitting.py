"""Fitting some nodes of a pruned model to what the original computes, on one run over the data.

    y = x w          =>   the original's y
    s = r + x w      =>   the original's s less the pruned model's r

The second form makes up for what the residual stream r has lost so far, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.walk import Walk
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.linear_maps import Floats, LinearMap, is_shared
from onnxopt.passes.pruning.refitting import PairedMoments, choose_ridge, refit
from onnxopt.passes.pruning.removing import Mask

# By value and axis, which positions stayed.
Kept = Mapping[str, Mapping[int, Mask]]
# Rows wanted for each input of a weight, and the bounds of that.
_ROWS_PER_INPUT, _FEWEST_ROWS, _MOST_ROWS = 8, 8192, 32768
# Every so many samples one is held out to choose the ridge with.
_HELD_OUT = 4


@dataclasses.dataclass(frozen=True)
class Repair:
    """What became of one node.

    Attributes:
        node: Its name.
        before: Error of its output, relative, on held-out samples; without repair.
        after: With the repair that held-out samples chose.
        ridge: The ridge chosen; None if the weight stayed as it was.
        reason: Why nothing was tried; "" if it was.
    """

    node: str
    before: float = 0.0
    after: float = 0.0
    ridge: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A node to fit.

    Attributes:
        site: The node, in the pruned model.
        target: Name of the value of the original to reproduce.
        others: Names of values of the pruned model that are added to the node's output on the way
            to the target.
    """

    site: LinearMap
    target: str
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """That of the node."""
        return self.site.node.name or self.site.output.name or ""

    @property
    def inputs(self) -> int:
        """Rows of a matrix of the weight."""
        return self.site.inputs

    @property
    def has_bias(self) -> bool:
        """True if a bias can take up the means."""
        bias = self.site.bias
        return self.site.adds_bias or (bias is not None and not is_shared(bias))

    @property
    def is_bias_in_target(self) -> bool:
        """True if the target is what comes out behind the bias."""
        return self.site.adds_bias or self.target != self.site.output.name

    @property
    def bytes(self) -> int:
        """Of both sets of moments, and of what solving them takes."""
        weight = self.site.weight.const_value
        assert weight is not None
        outputs = weight.size // self.inputs
        return 8 * self.inputs * self.site.group * (self.inputs + outputs) * 4


def rows_wanted(inputs: int) -> int:
    """How many rows of an activation say enough of how so many inputs go together."""
    return min(max(_ROWS_PER_INPUT * inputs, _FEWEST_ROWS), _MOST_ROWS)


class Stage:
    """Some nodes that are fitted on the same run over the data."""

    def __init__(self, fits: Sequence[Fit], kept: Kept, samples: Sequence[int]) -> None:
        self._fits, self._kept, self._samples = fits, kept, samples
        # By node and group of its weight: sums to fit on, and sums to choose the ridge with.
        self._sums: dict[tuple[int, int], list[PairedMoments]] = {}

    def run(self, original: ir.Model, pruned: ir.Model, before: Walk, after: Walk) -> list[Repair]:
        """Runs a piece of both models and replaces the weights of the pruned one."""
        sources = dict.fromkeys(
            name for fit in self._fits for name in (fit.site.source.name or "", *fit.others)
        )
        targets = list(dict.fromkeys(fit.target for fit in self._fits))
        start = self._fits[0].site.output.name or ""
        wanted = before.advance(original, targets, start)
        given = after.advance(pruned, list(sources), start)
        for place, (one, other) in enumerate(zip(wanted, given, strict=True)):
            for number, fit in enumerate(self._fits):
                self._add(number, fit, place, one, other)
        return [self._settle(number, fit) for number, fit in enumerate(self._fits)]

    def _add(
        self,
        number: int,
        fit: Fit,
        place: int,
        wanted: Mapping[str, Floats],
        given: Mapping[str, Floats],
    ) -> None:
        site = fit.site
        source = np.asarray(given[site.source.name or ""], np.float32)
        target = np.asarray(wanted[fit.target], np.float32)
        axis = site.output_axis % target.ndim
        mask = self._kept.get(fit.target, {}).get(axis)
        if mask is not None:
            target = np.compress(mask, target, axis=axis)
        for name in fit.others:
            target = target - np.asarray(given[name], np.float32)
        rows = rows_wanted(fit.inputs)
        rng = np.random.default_rng([place, number])
        x, y = site.rows(source, target, -(-rows // len(self._samples)), rng)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InvalidInputError(
                f"node {fit.name!r} reads or gives NaN or infinity on calibration sample {place}"
            )
        for group in range(x.shape[1]):
            pair = self._sums.get((number, group))
            if pair is None:
                pair = [PairedMoments(x[:, group], y[:, group]) for _ in range(2)]
                self._sums[number, group] = pair
            if len(self._samples) < _HELD_OUT:
                pair[0].add(x[1::2, group], y[1::2, group])
                pair[1].add(x[::2, group], y[::2, group])
            else:
                pair[place % _HELD_OUT == 0].add(x[:, group], y[:, group])

    def _settle(self, number: int, fit: Fit) -> Repair:
        """Fits, chooses, writes."""
        matrices = fit.site.matrices()
        centered = fit.has_bias
        choices = []
        shifts: list[NDArray[np.float64]] = []
        for group, weight in enumerate(matrices):
            fitting, held_out = self._sums.pop((number, group))
            choice = choose_ridge(
                weight, fitting.settled(centered=centered), held_out.settled(centered=centered)
            )
            choices.append(choice)
            fitting.merge(held_out)
            moments = fitting.settled(centered=centered)
            if choice.ridge is not None:
                matrices[group] = refit(weight, moments, choice.ridge)
            shifts.append(moments.mean_y - moments.mean_x @ matrices[group])
        bias = None
        if centered:
            bias = np.concatenate(shifts)
            old = fit.site.bias_array()
            if not fit.is_bias_in_target and old is not None:
                bias = bias + old
        fit.site.store(matrices, bias)
        return Repair(
            fit.name,
            sum(choice.before for choice in choices) / len(choices),
            sum(choice.after for choice in choices) / len(choices),
            next((choice.ridge for choice in choices if choice.ridge is not None), None),
        )

"""Repair without labels: the weights of a pruned model, fitted to what the original computes.

In the order of the graph, a few nodes at a time: both models run over the calibration data, the
original for what each node should give, the pruned one, with all earlier repairs in it, for what
the node is now given. So what earlier layers still get wrong is made up for by later ones.

Memory is that of the moments of one stage. The number of stages is bounded, so that the cost grows
linearly with the model; within a stage nodes do not see each other's repair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import run_samples
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.linear_maps import Floats, LinearMap, is_shared, linear_maps
from onnxopt.passes.pruning.refitting import PairedMoments, choose_ridge, refit
from onnxopt.passes.pruning.removing import Mask
from onnxopt.runtime.probing import Probe, chunks

# By value and axis, which positions stayed.
Kept = Mapping[str, Mapping[int, Mask]]
_MOST_STAGES = 32
# Rows wanted for each input of a weight, and the bounds of that.
_ROWS_PER_INPUT, _FEWEST_ROWS, _MOST_ROWS = 8, 8192, 32768
# Every so many samples one is held out to choose the ridge with.
_HELD_OUT = 4
# Moments over more inputs than this take too long to solve.
LARGEST = 6144


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


def repair(
    original: ir.Model,
    pruned: ir.Model,
    kept: Kept,
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Repair]:
    """Re-fits the weights of the pruned model behind what was removed.

    Args:
        original: The model before, with values of the same names.
        pruned: The model after; its weights are replaced.
        kept: By value and axis which positions stayed, where not all did.
        data: What to run on.
        samples: Indexes of the input sets to use.
        max_memory: Bytes for moments, beyond both models and the activations of one run.
        progress: Told the number of stages done and the number of all.

    Returns:
        One entry for each node whose input changed.
    """
    sites, refused = _sites(pruned, original, kept)
    stages = list(_stages(sites, max_memory))
    found = list(refused)
    before = Probe(original)
    for number, stage in enumerate(stages):
        found += _Stage(stage, kept, len(samples)).run(before, pruned, data, samples)
        if progress is not None:
            progress(number + 1, len(stages))
    return found


def _sites(
    pruned: ir.Model, original: ir.Model, kept: Kept
) -> tuple[list[LinearMap], list[Repair]]:
    """Nodes behind a change, in order, and those that are left alone."""
    known = {value.name for node in original.graph for value in node.outputs}
    maps = {site.node: site for site in linear_maps(pruned)}
    changed: set[ir.Value] = set()
    sites, refused = [], []
    for node in pruned.graph:
        touched = any(v in changed or (v is not None and v.name in kept) for v in node.inputs)
        if not touched:
            continue
        changed.update(node.outputs)
        site = maps.get(node)
        if site is None:
            if node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN"):
                reason = f"{node.op_type} is not re-fitted"
                refused.append(Repair(node.name or node.outputs[0].name or "", reason=reason))
            continue
        reason = _reason(site, known)
        if reason:
            refused.append(Repair(_name(site), reason=reason))
        else:
            sites.append(site)
    return sites, refused


def _reason(site: LinearMap, known: set[str | None]) -> str:
    assert site.weight.shape is not None
    if is_shared(site.weight):
        return f"weight {site.weight.name!r} is shared"
    if site.output.name not in known:
        return "the original has no such value"
    inputs = _inputs(site)
    if inputs > LARGEST:
        return f"{inputs} inputs are more than {LARGEST}"
    if site.is_conv and inputs * site.group > LARGEST:
        return f"{site.group} groups are too many"
    return ""


def _inputs(site: LinearMap) -> int:
    assert site.weight.const_value is not None
    shape = site.weight.const_value.shape.numpy()
    return int(np.prod(shape[1:])) if site.is_conv else int(shape[site.input_axis])


def _name(site: LinearMap) -> str:
    return site.node.name or site.output.name or ""


def _stages(sites: Sequence[LinearMap], max_memory: int) -> Iterator[list[LinearMap]]:
    """Nodes with the same input belong together; the others are as far apart as is allowed."""
    runs: list[list[LinearMap]] = []
    for site in sites:
        if runs and runs[-1][0].source is site.source:
            runs[-1].append(site)
        else:
            runs.append([site])
    per_stage = -(-len(runs) // _MOST_STAGES)
    for start in range(0, len(runs), max(1, per_stage)):
        stage = {_name(site): site for run in runs[start : start + per_stage] for site in run}
        sizes = {name: _bytes(site) for name, site in stage.items()}
        for part in chunks(list(stage), sizes, max_memory):
            yield [stage[name] for name in part]


def _bytes(site: LinearMap) -> int:
    """Of both sets of moments, and of what solving them takes."""
    inputs = _inputs(site)
    assert site.weight.const_value is not None
    outputs = site.weight.const_value.size // inputs
    return 8 * inputs * site.group * (inputs + outputs) * 4


class _Stage:
    """Some nodes that are repaired on the same run over the data."""

    def __init__(self, sites: Sequence[LinearMap], kept: Kept, samples: int) -> None:
        self._sites, self._kept = sites, kept
        self._samples = max(1, samples)
        # By node and group of its weight: sums to fit on, and sums to choose the ridge with.
        self._sums: dict[tuple[int, int], list[PairedMoments]] = {}

    def run(
        self, before: Probe, pruned: ir.Model, data: CalibrationData, samples: Sequence[int]
    ) -> list[Repair]:
        outputs = list(dict.fromkeys(site.output.name or "" for site in self._sites))
        after = Probe(pruned)
        sources = list(dict.fromkeys(site.source.name or "" for site in self._sites))
        sources = [name for name in sources if name in after.values]
        wanted = run_samples(before, outputs, data, samples)
        given = run_samples(after, sources, data, samples)
        runs = enumerate(zip(wanted, given, strict=True))
        for place, ((_, _, targets), (_, _, found)) in runs:
            for number, site in enumerate(self._sites):
                self._add(number, site, place, found, targets)
        return [self._settle(number, site) for number, site in enumerate(self._sites)]

    def _add(
        self,
        number: int,
        site: LinearMap,
        place: int,
        found: Mapping[str, Floats],
        targets: Mapping[str, Floats],
    ) -> None:
        name = site.output.name or ""
        source = np.asarray(found[site.source.name or ""], np.float32)
        target = np.asarray(targets[name], np.float32)
        axis = site.output_axis % target.ndim
        mask = self._kept.get(name, {}).get(axis)
        if mask is not None:
            target = np.compress(mask, target, axis=axis)
        wanted = min(max(_ROWS_PER_INPUT * _inputs(site), _FEWEST_ROWS), _MOST_ROWS)
        rng = np.random.default_rng([place, number])
        x, y = site.rows(source, target, -(-wanted // self._samples), rng)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InvalidInputError(
                f"node {_name(site)!r} reads or gives NaN or infinity on calibration sample {place}"
            )
        for group in range(x.shape[1]):
            pair = self._sums.get((number, group))
            if pair is None:
                pair = [PairedMoments(x[:, group], y[:, group]) for _ in range(2)]
                self._sums[number, group] = pair
            if self._samples < _HELD_OUT:
                pair[0].add(x[1::2, group], y[1::2, group])
                pair[1].add(x[::2, group], y[::2, group])
            else:
                pair[place % _HELD_OUT == 0].add(x[:, group], y[:, group])

    def _settle(self, number: int, site: LinearMap) -> Repair:
        """Fits, chooses, writes."""
        matrices = site.matrices()
        centered = site.adds_bias or (site.bias is not None and not is_shared(site.bias))
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
            shift = np.concatenate(shifts)
            old = None if site.adds_bias else site.bias_array()
            bias = shift if old is None else old + shift
        site.store(matrices, bias)
        return Repair(
            _name(site),
            sum(choice.before for choice in choices) / len(choices),
            sum(choice.after for choice in choices) / len(choices),
            next((choice.ridge for choice in choices if choice.ridge is not None), None),
        )

"""What whole residual blocks cost, and what their removal gives.

The cost of a block is the share of the variance of the residual stream, where the block ends, that
is missing there without it: Var(f) / Var(x + f), of every feature about its mean, which biases can
make up for. What units inside the branch cost is a share of f, so that times Var(f) / Var(x + f)
both are on one scale, and a branch that adds little gives more of its units
(`benchmarks/pruned_digits.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.cost import node_flops
from onnxopt.graph.linear_maps import linear_maps
from onnxopt.graph.residuals import Span, residual_blocks, spans
from onnxopt.graph.values import dims
from onnxopt.pruning.ladders import Ladder
from onnxopt.pruning.options import Goal
from onnxopt.pruning.report import BlockEntry
from onnxopt.runtime.diagnosis.probing import Probe, chunks

# Input sets that tell how much a branch adds.
_ENOUGH = 64


@dataclasses.dataclass(frozen=True)
class RankedSpan:
    """Blocks that go at once.

    Attributes:
        span: The blocks.
        cost: What is lost, as a share of what their end holds.
        gain: What is gained, in the measure of the goal.
    """

    span: Span
    cost: float
    gain: float


def removable_spans(
    model: ir.Model, kinds: Sequence[str], excluded: Sequence[str]
) -> tuple[list[Span], list[BlockEntry]]:
    """What can be removed at once, and entries with the reason for the rest.

    Args:
        model: With inferred shapes.
        kinds: "block", "layer" or both; others are ignored.
        excluded: Names of nodes that have to stay.
    """
    blocks = residual_blocks(model)
    names = set(excluded)
    chosen, refused = [], []
    for kind in ("block", "layer"):
        for span in spans(blocks, kind) if kind in kinds else ():
            reason = span.obstacle
            if any(node.name in names for block in span.blocks for node in block.nodes):
                reason = "excluded"
            if reason:
                refused.append(BlockEntry(span.name, kind, reason=reason))
            else:
                chosen.append(span)
    return chosen, refused


def span_costs(
    model: ir.Model,
    chosen: Sequence[Span],
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int,
) -> list[float]:
    """The cost of each, on calibration data.

    Args:
        model: The model that they are of.
        chosen: The blocks.
        data: What to run on.
        samples: Indexes of the input sets to use.
        max_memory: Bytes for the values of one run.

    Raises:
        InvalidInputError: A value is not finite.
    """
    probe = Probe(model)
    axes = _feature_axes(model, chosen)
    sums = [_Variances(axis) for axis in axes]
    pairs = {str(i): (span.entry.name or "", span.end.name or "") for i, span in enumerate(chosen)}
    names = [name for pair in pairs.values() for name in pair if name in probe.values]
    sizes = probe.sizes(names, data[largest_sample(data, samples)].feeds)
    needs = {key: sum(sizes.get(name, 0) for name in pair) for key, pair in pairs.items()}
    for part in chunks(list(pairs), needs, max_memory):
        wanted = dict.fromkeys(n for key in part for n in pairs[key] if n in probe.values)
        for index, one, values in run_samples(probe, list(wanted), data, samples):
            for key in part:
                entry, end = (np.asarray(values[name], np.float32) for name in pairs[key])
                sums[int(key)].add(entry, end)
                if not np.isfinite(sums[int(key)].total):
                    raise InvalidInputError(
                        f"value {pairs[key][1]!r} is NaN or infinite on calibration sample {index} "
                        f"({one.description})"
                    )
    return [one.share for one in sums]


def weighted(
    model: ir.Model,
    ladders: Sequence[Ladder],
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int,
) -> list[Ladder]:
    """The costs of units as shares of the residual streams that their branches add to.

    Args:
        model: The model that the ladders are of.
        ladders: Costs as shares of what the consumers compute; consumers outside of all branches
            count in full.
        data: What to run on.
        samples: Indexes of the input sets; the first few serve.
        max_memory: Bytes for the values of one run.
    """
    blocks = spans(residual_blocks(model), "block")
    if not blocks or not ladders:
        return list(ladders)
    costs = span_costs(model, blocks, data, samples[:_ENOUGH], max_memory=max_memory)
    share = {
        node: cost
        for span, cost in zip(blocks, costs, strict=True)
        for node in span.blocks[0].nodes
    }
    found = []
    for ladder in ladders:
        consumers = [item.value for item in ladder.group.slices if item.role == "consumer"]
        shares = [share.get(node, 1.0) for value in consumers for node in value.consumers()]
        factor = float(np.mean(shares)) if shares else 1.0
        found.append(dataclasses.replace(ladder, costs=ladder.costs * factor))
    return found


class _Variances:
    """Of what a block adds, and of what comes out."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: NDArray[np.float64] | None = None
        self._squares = np.zeros(2)
        self._count = 0

    def add(self, entry: NDArray[np.float32], end: NDArray[np.float32]) -> None:
        both = [
            np.moveaxis(array, self._axis, -1).reshape(-1, array.shape[self._axis])
            for array in (end - entry, end)
        ]
        sums = np.stack([rows.sum(0, np.float64) for rows in both])
        self._sums = sums if self._sums is None else self._sums + sums
        self._squares += [float(np.square(rows).sum(dtype=np.float64)) for rows in both]
        self._count += len(both[0])

    @property
    def total(self) -> float:
        return float(self._squares.sum())

    @property
    def share(self) -> float:
        assert self._sums is not None
        added, whole = self._squares - np.square(self._sums).sum(1) / self._count
        return float(added / max(whole, 1e-30))


def _feature_axes(model: ir.Model, chosen: Sequence[Span]) -> list[int]:
    """The axis of each stream that the last weight of the branch makes the features of."""
    sites = {site.node: site for site in linear_maps(model)}
    axes = []
    for span in chosen:
        shape = dims(span.end) or ()
        site = next(sites[n] for n in reversed(span.blocks[-1].nodes) if n in sites)
        places = [axis for axis in (site.output_axis, 1, -1) if len(shape) > abs(axis)]
        axes.append(next((axis for axis in places if shape[axis] == site.outputs), -1))
    return axes


def span_gain(
    goal: Goal, sizes: Mapping[str, int], seconds: Callable[[], Mapping[str, float]]
) -> Callable[[Span], float]:
    """What the removal of blocks gives in the measure of a goal.

    Args:
        goal: The measure.
        sizes: Size of each symbolic dimension.
        seconds: Gives how long each node takes.
    """

    def gain(span: Span) -> float:
        nodes = [node for block in span.blocks for node in block.nodes]
        if goal == "latency":
            times = seconds()
            return 1e3 * sum(times.get(node.name or "", 0.0) for node in nodes)
        if goal == "flops":
            return float(sum(node_flops(node, dict(sizes)) or 0 for node in nodes))
        if goal == "size":
            tensors = [weight.const_value for b in span.blocks for weight in b.weights]
            return float(sum(tensor.nbytes for tensor in tensors if tensor is not None))
        return 1.0

    return gain

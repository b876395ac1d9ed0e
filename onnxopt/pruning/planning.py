"""From what was asked for to the units that go."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.axes.groups import PruningGroup, find_groups
from onnxopt.graph.naming import excluded_names
from onnxopt.graph.residuals import Span
from onnxopt.graph.values import dims
from onnxopt.pruning.allocating import Allocation, Found, Gain, search
from onnxopt.pruning.blocks import (
    RankedSpan,
    removable_spans,
    span_costs,
    span_gain,
    weighted,
)
from onnxopt.pruning.candidates import Candidate, apply, size_of
from onnxopt.pruning.entries import block_entries, group_entries
from onnxopt.pruning.gains import byte_gain, curve_gain, flop_gain, unit_gain
from onnxopt.pruning.ladders import MOST_FEATURES, Ladder, activation_ladders, weight_ladder
from onnxopt.pruning.latency_table import Curve, latency_table
from onnxopt.pruning.options import WHOLE, PruneOptions
from onnxopt.pruning.preparing import finished
from onnxopt.pruning.report import PruningReport
from onnxopt.pruning.taylor import taylor_ladders
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.deviation import Reference

# Kernels of the CPU work on 8 columns or channels at a time (benchmarks/kernel_widths.py).
_MULTIPLE = 8
# How close a target is to be met.
_TOLERANCE = {"flops": 0.01, "size": 0.01, "latency": 0.02}
_LATENCY_SECONDS = 5.0


class Planner:
    """Ranks the units of one model and finds how many have to go."""

    def __init__(
        self,
        model: ir.Model,
        options: PruneOptions,
        data: CalibrationData,
        samples: Sequence[int],
        reference: Reference,
        report: PruningReport,
        max_memory: int,
    ) -> None:
        self._model, self._options = model, options
        self._data, self._samples = data, samples
        self._reference, self._report = reference, report
        self._max_memory = max_memory
        self._groups = find_groups(model)
        self._table: tuple[dict[str, Curve], dict[str, float]] | None = None
        self._components = int(self._groups.solution.labels.max(initial=-1)) + 1
        self.sizes = {
            dim: size
            for value in model.graph.inputs
            for dim, size in zip(
                dims(value) or (),
                getattr(reference.feeds.get(value.name or ""), "shape", ()),
                strict=False,
            )
            if isinstance(dim, str)
        }

    def choose(self) -> Candidate:
        """The pruned copy.

        Raises:
            InvalidInputError: Nothing can be pruned, or the target cannot be met.
        """
        options, report = self._options, self._report
        chosen, reasons = self._prunable()
        spans = self._spans()
        if not chosen and not spans:
            whys = {*reasons.values(), *(entry.reason for entry in report.blocks)}
            why = "; ".join(sorted(whys)[:3]) or "no axis of a weight is free"
            raise InvalidInputError(f"there is nothing that can be pruned: {why}")
        ladders = self._ladders(chosen)
        allocation = Allocation(
            ladders,
            options.resolved_scope,
            self._gain(ladders),
            self._multiple,
            self._ranked(spans, ladders),
            strict=options.multiple is not None,
        )
        allocation, found = self._search(allocation)
        report.reached, report.met = found.share, found.met
        report.blocks += block_entries(allocation, found.count)
        report.groups += group_entries(self._groups, allocation, found.count, reasons)
        return self._apply(allocation, found.count)

    def _apply(self, allocation: Allocation, count: int) -> Candidate:
        removed = allocation.removed(count, self._components)
        return apply(self._model, removed, allocation.gone(count))

    def _spans(self) -> list[Span]:
        """Blocks that may go; the others are reported."""
        options = self._options
        if not set(WHOLE) & set(options.kinds):
            return []
        if self._data.synthesized:
            raise InvalidInputError(
                "blocks and layers are ranked by what they compute: give data (--calibration)"
            )
        excluded = excluded_names(self._model, options.exclude)
        chosen, self._report.blocks = removable_spans(self._model, options.kinds, excluded)
        return chosen

    def _ranked(self, chosen: Sequence[Span], ladders: Sequence[Ladder]) -> list[RankedSpan]:
        """What each costs and gives."""
        if not chosen:
            return []
        self._report.samples = len(self._samples)
        costs = span_costs(
            self._model, chosen, self._data, self._samples, max_memory=self._max_memory
        )
        gain = span_gain(self._options.goal, self.sizes, lambda: self._latencies(ladders)[1])
        return [
            RankedSpan(span, cost, gain(span)) for span, cost in zip(chosen, costs, strict=True)
        ]

    @property
    def _multiple(self) -> int:
        return self._options.multiple or _MULTIPLE

    def _prunable(self) -> tuple[list[PruningGroup], dict[str, str]]:
        """Groups that may shrink, and why the others may not."""
        options = self._options
        excluded = set(excluded_names(self._model, options.exclude))
        held = {
            value
            for node in self._model.graph
            if node.name in excluded
            for value in node.inputs
            if value is not None and value.is_initializer()
        }
        chosen, reasons = [], {}
        for group in self._groups:
            if held & {item.value for item in group.slices}:
                reasons[group.name] = "excluded"
            elif options.kinds and group.kind not in options.kinds:
                reasons[group.name] = f"only {' and '.join(options.kinds)} was asked for"
            elif group.statistics and not options.widths:
                reasons[group.name] = (
                    f"{group.statistics} normalizes over it (--widths prunes it, too)"
                )
            elif len(group) > 1:
                chosen.append(group)
        prunable = {item.value for group in self._groups for item in group.slices}
        self._report.pinned = [
            (item.value.name or "", item.axis, item.reason)
            for item in self._groups.pinned
            if item.value not in prunable
        ]
        return chosen, reasons

    def _ladders(self, chosen: Sequence[PruningGroup]) -> list[Ladder]:
        options, data = self._options, self._data
        measure = options.importance
        if measure == "auto":
            measure = "l2" if data.synthesized else "hessian"
        if measure == "activation" or measure == "hessian" or measure == "taylor":
            if data.synthesized:
                raise InvalidInputError(
                    f"importance {measure} needs data: --calibration DATA, or l1, l2 or random"
                )
            self._report.samples = len(self._samples)
            if measure == "taylor":
                return taylor_ladders(self._model, chosen, data, self._samples, options.seed)
            ladders = activation_ladders(
                self._model, chosen, measure, data, self._samples, max_memory=self._max_memory
            )
            other = sum(ladder.measure == "activation" != measure for ladder in ladders)
            if other:
                self._report.notes.append(
                    f"activation ranks {other} groups: for hessian they have too many features "
                    f"(over {MOST_FEATURES:,}, or moments that take more than --max-memory)"
                )
            return weighted(self._model, ladders, data, self._samples, max_memory=self._max_memory)
        return [weight_ladder(group, measure, options.seed) for group in chosen]

    def _gain(self, ladders: Sequence[Ladder]) -> Gain:
        goal = self._options.goal
        if self._options.resolved_scope == "layer" or goal == "sparsity":
            return unit_gain
        if goal == "flops":
            return flop_gain(self._groups, self.sizes)
        if goal == "size":
            return byte_gain
        return curve_gain(self._latencies(ladders)[0])

    def _latencies(self, ladders: Sequence[Ladder]) -> tuple[dict[str, Curve], dict[str, float]]:
        """Of groups by their width, and of nodes; measured once."""
        if self._table is not None:
            return self._table
        uniform = Allocation(ladders, "layer", unit_gain, self._multiple)

        def at_width(width: float) -> ir.Model:
            return self._apply(uniform, uniform.up_to(1 - width)).model

        self._table = latency_table(
            self._groups,
            at_width,
            self._reference.feeds,
            self._options.target,
            seconds=min(_LATENCY_SECONDS * 2, self._options.budget / 4),
        )
        return self._table

    def _search(self, allocation: Allocation) -> tuple[Allocation, Found]:
        """The number of steps; a block that removes too much gives way to units that cost less."""
        found = self._found(allocation)
        if self._options.goal == "sparsity":
            return allocation, found
        enough = self._options.share * (1 - 2 * _TOLERANCE[self._options.goal])
        while found.share < enough:
            other = allocation.without_last(found.count)
            if other is None:
                break
            fewer = self._found(other)
            if other.cost(fewer.count) >= allocation.cost(found.count):
                break
            allocation, found = other, fewer
        return allocation, found

    def _found(self, allocation: Allocation) -> Found:
        options, report = self._options, self._report
        share = options.share
        amount = f"{1 - share:g}" if options.goal == "sparsity" else f"{share:g}x"
        report.goal = f"{options.goal} {amount}"
        if options.goal == "sparsity":
            whole = options.resolved_scope == "layer"
            count = (allocation.up_to if whole else allocation.of_all)(1 - share)
            return Found(count, allocation.left(count), True)
        found = search(
            len(allocation.steps),
            functools.partial(self._left, allocation),
            share,
            tolerance=_TOLERANCE[options.goal],
        )
        if not found.met:
            raise InvalidInputError(
                f"{options.goal} {share:g}x cannot be met: {found.share:.3f}x is what is left when "
                f"every group is as narrow as it can be; {self._obstacle()}"
            )
        return found

    def _obstacle(self) -> str:
        normalized = any(group.statistics for group in self._groups)
        if normalized and not self._options.widths:
            return "--widths prunes what normalizations average over, too"
        return "the rest is in operators and axes that cannot be pruned (-v of a smaller goal)"

    def _left(self, allocation: Allocation, count: int) -> float:
        """What is left after so many steps, in the measure of the goal."""
        options = self._options
        model = self._apply(allocation, count).model
        if options.goal == "latency":
            if time.perf_counter() > self._deadline:
                raise InvalidInputError(
                    f"the latencies of {options.budget:.0f} seconds did not suffice (--budget)"
                )
            speed = measure_speed(
                self.whole,
                finished(model, options.target),
                self._reference.sets,
                _LATENCY_SECONDS,
                threads=options.target.threads,
                providers=options.target.execution_providers,
            )
            return 1 / speed.median
        before, after = size_of(self._model, self.sizes), size_of(model, self.sizes)
        if options.goal == "flops":
            return after.flops / max(1, before.flops)
        return after.bytes / max(1, before.bytes)

    @functools.cached_property
    def whole(self) -> ir.Model:
        """What pruned models are timed against."""
        return finished(self._model, self._options.target)

    @functools.cached_property
    def _deadline(self) -> float:
        return time.perf_counter() + self._options.budget

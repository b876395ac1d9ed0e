"""Measuring the forms and choosing one: the fastest within the budget of error, if it beats float.

1. Every form is built and its error measured; of a static form only the way to choose ranges with
   the least error is kept.
2. Each is timed against the float model. On CPUs whose int8 kernels saturate, forms over the budget
   of error are tried with uint8 weights as well, and static forms that are not faster with fewer
   nodes.
3. Those that are faster get accuracy repairs, each of which is kept only if it lowers the error.
4. From the fastest on, those within the budget first: one over the budget gets nodes back in
   float, the most sensitive first, until it is within; then it is timed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.quantizing.forms import Form
from onnxopt.quantizing.improving import Improving
from onnxopt.quantizing.metrics import Metric
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.repairing import Bases
from onnxopt.quantizing.sensitivity import Sensitivity
from onnxopt.quantizing.tried import Tried
from onnxopt.runtime.benchmark import Ratio
from onnxopt.runtime.deviation import Reference
from onnxopt.runtime.library import CannotRunError

Timer = Callable[[ir.Model], Ratio]
_ROUNDING = 1e-9  # of means of scores
_SLOWER, _OVER = "slower than another form", "over the budget of error"


class Search:
    """One search.

    Args:
        model: The prepared float model.
        options: What the user asks for.
        bases: What forms are built from, with repairs and without.
        reference: The float model's outputs.
        timer: Times a model against the float one.
        exclude: Names of nodes to leave in float in any case.
        metric: What counts besides the error.

    Attributes:
        improving: The repairs that were tried.
        float_score: The float model's score by the metric.
        tried: Everything that was measured; the models of those out of the choice are gone.
        untaken: A form that had nothing to quantize, if there was one.
        losses: Share of the budget of error by node, where it was needed.
        out_of_time: True if the budget of seconds ended the search.
    """

    def __init__(
        self,
        model: ir.Model,
        options: QuantizeOptions,
        bases: Bases,
        reference: Reference,
        timer: Timer,
        exclude: Sequence[str] = (),
        metric: Metric | None = None,
    ) -> None:
        self._model, self._options, self._bases, self._metric = model, options, bases, metric
        self._reference, self._timer, self._exclude = reference, timer, tuple(exclude)
        self._end = time.perf_counter() + options.budget
        self.float_score = None if metric is None else metric.of(reference.outputs)
        self.improving = Improving(
            options.repairs if bases.possible else (),
            self._try,
            self._time,
            self.is_within,
            corrects=options.corrects,
            end=self._end - options.budget / 4,  # the rest is for leaving nodes in float
        )
        self.tried: list[Tried] = []
        self.untaken: Tried | None = None
        self.losses: dict[str, float] = {}
        self.out_of_time = False

    def run(self, forms: Sequence[Form]) -> Tried | None:
        """The form to use; None if float is best."""
        best: dict[str, Tried] = {}
        start = time.perf_counter()
        half = start + (self._end - start) / 2
        for form in forms:
            if form.kind in best and time.perf_counter() > half:
                self.out_of_time = True
                continue
            one = self._try(form)
            if one is None:
                continue
            known = best.get(form.kind)
            if known is None or self._rank(one) < self._rank(known):
                best[form.kind] = one
        self.tried = [*best.values(), *self._unsaturated(best.values())]
        for one in self.tried:
            self._time(one)
        for one in best.values():
            if not one.is_faster and one.deviation is not None:
                self._try_placements(one)
        chosen: Tried | None = None
        for one in sorted(self.tried, key=lambda one: (not self.is_within(one), -one.speed)):
            if one.deviation is None or one.ratio is None:
                continue
            if chosen is not None and one.speed <= chosen.speed:
                over = "" if self.is_within(one) else f"{_OVER}, and "
                one.drop(one.verdict or f"{over}{_SLOWER}")
                continue
            found = self._settled(self._improved(one))
            if found is None:
                continue
            if chosen is None or found.speed > chosen.speed:
                if chosen is not None:
                    chosen.drop(_SLOWER)
                chosen = found
            else:
                found.drop(_SLOWER)
        if chosen is not None:
            chosen.verdict = "chosen"
        return chosen

    def _unsaturated(self, tried: Collection[Tried]) -> list[Tried]:
        """Of forms over the budget of error those with weights that use all 8 bits."""
        options = self._options
        if not options.saturates or options.reduce_range or options.weight_type != "int8":
            return []
        forms = [replace(one.form, unsigned=True) for one in tried if not self.is_within(one)]
        return [one for form in forms if (one := self._try(form)) is not None]

    def _try_placements(self, one: Tried) -> None:
        for form in one.form.other_placements():
            other = self._try(form)
            if other is not None and other.nodes != one.nodes:
                self._time(other)
                self.tried.append(other)

    def _try(self, form: Form, exclude: Sequence[str] = ()) -> Tried | None:
        basis = self._bases.of(form)
        if basis is None:
            return None
        built = form.build(basis, self._options, (*self._exclude, *exclude))
        one = Tried(form, *built, excluded=tuple(exclude))
        if not one.nodes:
            self.untaken = self.untaken or one
            return None
        tally = None if self._metric is None else self._metric.start()
        try:
            one.deviation = self._reference.deviation(
                built[0], watch=None if tally is None else tally.add
            )
            one.score = None if tally is None else tally.mean
            if one.deviation.broken:
                one.verdict, one.deviation = one.deviation.broken, None
        except CannotRunError as error:
            one.verdict = f"does not run: {error.reason}"
        return one

    def _time(self, one: Tried) -> None:
        if one.deviation is None or one.model is None:
            return
        try:
            one.ratio = self._timer(one.model)
        except CannotRunError as error:
            one.verdict, one.deviation = f"does not run: {error.reason}", None

    def _improved(self, one: Tried) -> Tried:
        """The form with the repairs that help it, if it is worth having at all."""
        if not (one.is_faster or self._options.is_forced):
            return one
        better = self.improving.improve(one)
        self.tried[self.tried.index(one)] = better
        return better

    def _settled(self, one: Tried) -> Tried | None:
        """The form within the budget and faster than float, or None."""
        if not self._options.is_forced and not one.is_faster:
            one.drop("not faster than float")
            return None
        if self.is_within(one) or self._options.is_forced:
            return one
        one.drop(_OVER)
        repaired = self._repaired(one)
        if repaired is None:
            return None
        self._time(repaired)
        self.tried.append(repaired)
        if not repaired.is_faster:
            repaired.drop("not faster than float with so many nodes in float")
            return None
        return repaired

    def is_within(self, one: Tried) -> bool:
        """True if a form meets the budget of error, and the metric's if there is one."""
        enough = one.score is None or self.float_score is None
        if one.score is not None and self.float_score is not None:
            enough = one.score >= self.float_score - self._options.max_accuracy_drop - _ROUNDING
        return enough and self._loss(one) <= 1

    def _loss(self, one: Tried) -> float:
        """The share of the budget of error that a form uses; infinite if it does not run."""
        if one.deviation is None:
            return math.inf
        return self._options.share_of_budget(one.deviation.error, one.deviation.cosine)

    def _rank(self, one: Tried) -> tuple[float, float]:
        """By the budget of error, and where that is not limited by the error itself."""
        return self._loss(one), math.inf if one.deviation is None else one.deviation.error

    def _loss_without(self, form: Form, names: Sequence[str]) -> float:
        one = self._try(form, names)
        return 0.0 if one is None else next(filter(None, self._rank(one)), 0.0)

    def _repaired(self, one: Tried) -> Tried | None:
        """The form with the fewest sensitive nodes in float that is within the budget."""
        sensitivity = Sensitivity(
            lambda names: self._loss_without(one.form, names),
            self._quantized_names(one),
            self._end,
        )
        groups = sensitivity.ranked()
        self.losses |= sensitivity.losses
        self.out_of_time |= sensitivity.out_of_time
        found: Tried | None = None
        low, high = 1, len(groups) - 1
        while low <= high and time.perf_counter() < self._end:
            middle = (low + high) // 2
            names = [name for group in groups[:middle] for name in group]
            attempt = self._try(one.form, names)
            if attempt is not None and self.is_within(attempt):
                found, high = attempt, middle - 1
            else:
                low = middle + 1
        self.out_of_time |= low <= high
        return found

    def _quantized_names(self, one: Tried) -> list[str]:
        refused = {refusal.node for refusal in one.refusals}
        wanted = one.form.op_types(self._options)
        return [
            node.name
            for graph in all_graphs(self._model)
            for node in graph
            if node.op_type in wanted and node.name and node.name not in refused
        ]

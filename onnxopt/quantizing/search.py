"""Measuring the forms and choosing one: the fastest within the budget of error, if it beats float.

1. Every form is built and its error measured; of a static form only the way to choose ranges with
   the least error is kept.
2. Each is timed against the float model, briefly. On CPUs whose int8 kernels saturate, forms over
   the budget of error are tried with uint8 weights as well, and static forms that are not faster
   with fewer nodes.
3. From the fastest on: one over the budget gets nodes back in float until it is within, first
   those that lose most for the least work. Each gets accuracy repairs, as far as time allows, which
   are kept only if they lower the error; then fewer nodes may have to stay in float.
4. What could be the result is timed long enough to prove that it is faster.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.quantizing.excluding import Excluding
from onnxopt.quantizing.forms import Form
from onnxopt.quantizing.improving import Improving
from onnxopt.quantizing.metrics import Metric
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.repairing import Bases
from onnxopt.quantizing.tried import Tried
from onnxopt.quantizing.work import node_works
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.parity.deviation import Reference

# Times a model against float; briefly if the flag says so.
Timer = Callable[[ir.Model, bool], Ratio]
_ROUNDING = 1e-9  # of means of scores
# Briefly timed forms that seem this much faster are worth a closer look.
_PROMISING = 1.02
# Of the time that is left a form may take this share; and of that its repairs the other, if it
# has to give nodes back to float as well.
_SHARE_OF_FORM, _SHARE_OF_REPAIRS = 0.6, 0.5
# Of all of it forms with int8 weights may take this one, where they may have to be uint8.
_SHARE_OF_SIGNED = 0.6
# As many inputs tell which nodes are sensitive, where running on all takes more than so long.
_TELLING_SETS, _LONG = 2, 0.2
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
        end: When to stop, as `time.perf_counter` counts; by default after the budget's seconds.

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
        end: float | None = None,
    ) -> None:
        self._model, self._options, self._bases, self._metric = model, options, bases, metric
        self._reference, self._timer, self._exclude = reference, timer, tuple(exclude)
        self._end = time.perf_counter() + options.budget if end is None else end
        self.float_score = None if metric is None else metric.of(reference.outputs)
        self.improving = Improving(
            options.repairs if bases.possible else (),
            self._try,
            self._time,
            self.is_within,
            corrects=options.corrects,
        )
        self.tried: list[Tried] = []
        self.untaken: Tried | None = None
        self.losses: dict[str, float] = {}
        self.out_of_time = False

    def run(self, forms: Sequence[Form]) -> Tried | None:
        """The form to use; None if float is best."""
        best = self._best_of_each_kind(forms)
        self.tried = list(best)
        for one in best:
            self._time(one, briefly=True)
        for one in best:
            if one.deviation is not None:
                larger = one.form.larger_placements(self._options)
                smaller = () if self._is_promising(one) else one.form.smaller_placements()
                self._try_placements(one, (*larger, *smaller))
        now = time.perf_counter()
        share = _SHARE_OF_SIGNED if self._options.can_be_unsigned else 1.0
        chosen = self._fastest(self.tried, None, now + max(0.0, self._end - now) * share)
        if self._options.can_be_unsigned and (chosen is None or chosen.excluded):
            chosen = self._fastest(self._unsaturated(best), chosen, self._end)
        if chosen is not None:
            chosen.verdict = "chosen"
        return chosen

    def _fastest(self, forms: Collection[Tried], chosen: Tried | None, end: float) -> Tried | None:
        """The fastest within the budget, of these forms and the one chosen before."""
        for one in sorted(forms, key=lambda one: -one.speed):
            if one.deviation is None or one.ratio is None:
                continue
            if chosen is not None and one.speed <= chosen.speed:
                over = "" if self.is_within(one) else f"{_OVER}, and "
                one.drop(one.verdict or f"{over}{_SLOWER}")
                continue
            now = time.perf_counter()
            until = now + max(0.0, end - now) * _SHARE_OF_FORM
            found = self._settled(one, until)
            if found is None:
                continue
            if chosen is None or found.speed > chosen.speed:
                if chosen is not None:
                    chosen.drop(_SLOWER)
                chosen = found
            else:
                found.drop(_SLOWER)
        return chosen

    def _best_of_each_kind(self, forms: Sequence[Form]) -> list[Tried]:
        """The forms of least error, one of each kind: the best ranges, then corrected or not."""
        best: dict[str, Tried] = {}
        now = time.perf_counter()
        half = now + (self._end - now) / 2
        for form in sorted(forms, key=lambda form: form.corrected):
            known, static = best.get(form.kind), best.get("static")
            if known is not None and time.perf_counter() > half:
                self.out_of_time = True
                continue
            if known is not None and form.corrected and form.method != known.form.method:
                continue
            if form.kind == "mixed" and static is not None and form.method != static.form.method:
                continue  # its Convs are those of the static form
            one = self._try(form)
            if one is not None and (known is None or self._rank(one) < self._rank(known)):
                best[form.kind] = one
        return list(best.values())

    def _unsaturated(self, tried: Collection[Tried]) -> list[Tried]:
        """Of forms over the budget of error those with weights that use all 8 bits."""
        found = []
        for one in tried:
            if time.perf_counter() > self._end:
                self.out_of_time = True
                break
            if one.deviation is None or self.is_within(one) or one.speed < _PROMISING:
                continue
            other = self._try(replace(one.form, unsigned=True))
            if other is not None:
                self._time(other, briefly=True)
                found.append(other)
        self.tried += found
        return found

    def _try_placements(self, one: Tried, forms: Sequence[Form]) -> None:
        for form in forms:
            other = self._try(form)
            if other is not None and other.nodes != one.nodes:
                self._time(other, briefly=True)
                self.tried.append(other)

    def _try(
        self, form: Form, exclude: Sequence[str] = (), most_sets: int | None = None
    ) -> Tried | None:
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
                built[0], most_sets=most_sets, watch=None if tally is None else tally.add
            )
            if tally is not None:
                one.score, one.doubt = tally.mean, tally.doubt
            if one.deviation.broken:
                one.verdict, one.deviation = one.deviation.broken, None
        except CannotRunError as error:
            one.verdict = f"does not run: {error.reason}"
        return one

    def _time(self, one: Tried, *, briefly: bool) -> None:
        if one.deviation is None or one.model is None:
            return
        try:
            one.ratio = self._timer(one.model, briefly)
        except CannotRunError as error:
            one.verdict, one.deviation = f"does not run: {error.reason}", None

    def _is_promising(self, one: Tried) -> bool:
        return one.is_faster or one.speed > _PROMISING

    def _settled(self, one: Tried, until: float) -> Tried | None:
        """The form within the budget and proven to be faster than float, or None."""
        forced, over = self._options.is_forced, not self.is_within(one)
        if not (forced or self._is_promising(one)):
            one.drop("not proven faster than float")
            return None
        found = self._partial(one, until) if over and not forced else self._improved(one, until)
        if found is None:
            return None
        self._time(found, briefly=False)
        if found.deviation is not None and (found.is_faster or forced):
            return found
        over = bool(found.excluded)
        found.drop("not proven faster than float" + " with so many nodes in float" * over)
        return None

    def _improved(self, one: Tried, until: float) -> Tried:
        """The form with the repairs that help it."""
        self._bases.end = until
        better = self.improving.improve(one, until)
        self.tried[self.tried.index(one)] = better
        return better

    def _partial(self, one: Tried, until: float) -> Tried | None:
        """The form within the budget: with some of its nodes in float, with repairs, or both."""
        most_sets = _TELLING_SETS if self._reference.seconds > _LONG else None

        def loss(names: Sequence[str]) -> float:
            found = self._try(one.form, names, most_sets)
            return 0.0 if found is None else next(filter(None, self._rank(found)), 0.0)

        excluding = Excluding(loss, self.is_within, self._works(one))
        now = time.perf_counter()
        half = now + max(0.0, until - now) * _SHARE_OF_REPAIRS
        found = excluding.find(functools.partial(self._try, one.form), half)
        better = self._improved(one, (half + until) / 2)
        self.losses |= excluding.losses
        if better is not one:
            if self.is_within(better):
                return better
            found = excluding.find(functools.partial(self._try, better.form), until, found)
        self.out_of_time |= excluding.out_of_time
        better.drop(_OVER)
        if found is not None:
            self.tried.append(found)
        return found

    def is_within(self, one: Tried) -> bool:
        """True if a form meets the budget of error, and the metric's if there is one."""
        enough = one.score is None or self.float_score is None
        if one.score is not None and self.float_score is not None:
            drop = self.float_score - one.score + one.doubt
            enough = drop <= self._options.max_accuracy_drop + _ROUNDING
        return enough and self._loss(one) <= 1

    def _loss(self, one: Tried) -> float:
        """The share of the budget of error that a form uses; infinite if it does not run."""
        if one.deviation is None:
            return math.inf
        return self._options.share_of_budget(one.deviation.error, one.deviation.cosine)

    def _rank(self, one: Tried) -> tuple[float, float]:
        """By the budget of error, and where that is not limited by the error itself."""
        return self._loss(one), math.inf if one.deviation is None else one.deviation.error

    def _works(self, one: Tried) -> dict[str, float]:
        """Operations of the nodes that the form quantizes, by name."""
        refused = {refusal.node for refusal in one.refusals}
        wanted = one.form.op_types(self._options)
        return {
            node.name: self._all_works.get(node.name, 0.0)
            for graph in all_graphs(self._model)
            for node in graph
            if node.op_type in wanted and node.name and node.name not in refused
        }

    @functools.cached_property
    def _all_works(self) -> dict[str, float]:
        return node_works(self._model, self._reference.feeds)

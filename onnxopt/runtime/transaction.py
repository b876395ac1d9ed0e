"""A group of passes that is kept, kept in part, or undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxopt.core.gate import Place
from onnxopt.core.guarding import GuardRecord, Undone
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.runtime.attempts import Attempt, attempt
from onnxopt.runtime.benchmark import Ratio
from onnxopt.runtime.bisecting import Bisection, Blocked, Complaint, HopelessError
from onnxopt.runtime.budget import Budget, BudgetSpentError
from onnxopt.runtime.parity import ParityCheck, ParityResult
from onnxopt.runtime.session import CannotRunError
from onnxopt.runtime.speed import Measure


class Judges:
    """What candidates are judged by, what that may cost, and the record of it.

    Args:
        check: Checks models against the original.
        measure: Times a model against another.
        budget: What may be spent.
        record: Counts what was done.
    """

    def __init__(
        self, check: ParityCheck, measure: Measure, budget: Budget, record: GuardRecord
    ) -> None:
        self.budget = budget
        self.record = record
        self._check = check
        self._measure = measure
        self._longest_timing = 0.0

    def parity(self, model: ir.Model) -> ParityResult:
        """Checks a model against the original."""
        self.record.checks += 1
        return self._check.check(model)

    def speed(self, base: ir.Model, model: ir.Model) -> Ratio | None:
        """Times a model against another; None if they cannot be run, or not in the budget."""
        sets = self._check.sets
        if not sets:
            return None
        left = self.budget.seconds - self.budget.spent
        if left <= self._longest_timing:
            self.record.exhausted = True
            return None
        self.record.timings += 1
        try:
            return self._measure(base, model, sets, left)
        except CannotRunError:
            return None
        finally:
            took = left - (self.budget.seconds - self.budget.spent)
            self._longest_timing = max(self._longest_timing, took)

    def proven_slower(self, base: ir.Model, model: ir.Model) -> tuple[Ratio | None, str]:
        """The first timing, and what is wrong if a second one in fresh sessions agrees."""
        first = self.speed(base, model)
        if first is None or first.verdict != "slower":
            return first, ""
        second = self.speed(base, model)
        # Without time for a second one, the interval of the first is what is known.
        return first, slowness(second or first)


def slowness(ratio: Ratio) -> str:
    """What is wrong with a speed; "" if it is not proven slower."""
    if ratio.verdict != "slower":
        return ""
    return f"{ratio.median:.2f}x as fast as without it (95 %: {ratio.low:.2f} to {ratio.high:.2f})"


class Transaction:
    """One group of passes.

    Args:
        source: Makes the state before the group.
        group: Its passes.
        judges: What the outcome is judged by.

    Attributes:
        undone: What was undone.
        parity: The verdict on the state that was settled on; None if that was not checked.
        ratio: Its speed against the state before; None if that was not measured.
    """

    def __init__(
        self,
        source: Callable[[], ir.Model],
        group: Sequence[AnyPass | Repeat],
        judges: Judges,
    ) -> None:
        self.undone: list[Undone] = []
        self.parity: ParityResult | None = None
        self.ratio: Ratio | None = None
        self._source = source
        self._group = group
        self._judges = judges
        self._verdicts: dict[Blocked, ParityResult] = {}

    def run(self, observers: Sequence[Observer] = ()) -> Attempt:
        """Runs the group; a pass that raises is undone."""
        done = attempt(self._source, self._group, observers=observers)
        self.undone += done.undone()
        return done

    def settle_parity(
        self, first: Attempt, *, verdict: ParityResult | None = None, search: bool = True
    ) -> Attempt:
        """Undoes what breaks parity; the verdict on the first attempt may be known already."""
        if verdict is None:
            reason = self._parity_complaint(first)
        else:
            self._verdicts[first.blocked] = verdict
            reason = verdict.reasons[0] if verdict.status == "failed" else ""
        done = first
        if reason:
            done = self._repair(first, reason, self._parity_complaint, by_node=True, search=search)
        self.parity = self._verdicts.get(done.blocked)
        return done

    def settle_speed(self, first: Attempt, *, search: bool = True) -> Attempt:
        """Undoes what is proven slower than the state before; a rule at all of its nodes."""
        base = self._source()
        self.ratio, reason = self._judges.proven_slower(base, first.model)
        if not reason:
            return first

        def complaint(one: Attempt) -> str:
            self.ratio = self._judges.speed(base, one.model)
            return "" if self.ratio is None else slowness(self.ratio)

        done = self._repair(first, reason, complaint, by_node=False, search=search)
        if done.blocked != first.blocked and self._parity_complaint(done):
            # A state that nobody checked before, and wrong: rewrites that need each other.
            done = self._undo(first, f"{reason}, and not at parity in part")
        self.parity = self._verdicts.get(done.blocked)
        return done

    def _repair(
        self, first: Attempt, reason: str, complaint: Complaint, *, by_node: bool, search: bool
    ) -> Attempt:
        if not search:
            return self._undo(first, f"{reason} (the budget ran out before this group)")
        bisection = Bisection(self._retry, complaint, by_node=by_node)
        try:
            done = bisection.repair(first, reason)
        except HopelessError:
            return first
        except BudgetSpentError:
            return self._settle_for(bisection, first, reason)
        self.undone += bisection.found
        return done

    def _settle_for(self, bisection: Bisection, first: Attempt, reason: str) -> Attempt:
        """The best that is known when the budget runs out."""
        self._judges.record.exhausted = True
        best = bisection.best
        why = f"{reason} (the budget ran out before the cause was found)"
        if best is None:
            return self._undo(first, why)
        self.undone += bisection.found
        left_out = best.blocked - first.blocked - bisection.places
        passes = tuple(dict.fromkeys(p.pass_ for p in first.taken if p.pass_ in _passes(left_out)))
        rules = {place.rule for place in left_out}
        if passes:
            rule = rules.pop() if len(rules) == len(passes) == 1 else ""
            self.undone.append(Undone(passes=passes, rule=rule, reason=why))
        return best

    def _undo(self, first: Attempt, reason: str) -> Attempt:
        """Undoes the whole group."""
        passes = tuple(dict.fromkeys(place.pass_ for place in first.taken))
        self.undone.append(Undone(passes=passes, reason=reason))
        return Attempt(self._source(), [], [], frozenset(map(Place, passes)), {})

    def _retry(self, blocked: Blocked, observers: Sequence[Observer]) -> Attempt:
        self._judges.budget.require()
        self._judges.record.attempts += 1
        return attempt(self._source, self._group, blocked, observers)

    def _parity_complaint(self, one: Attempt) -> str:
        result = self._verdicts[one.blocked] = self._judges.parity(one.model)
        return result.reasons[0] if result.status == "failed" else ""


def _passes(places: Blocked) -> set[str]:
    return {place.pass_ for place in places}

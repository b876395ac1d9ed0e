"""A group of passes that is kept, kept in part, or undone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from onnxopt.core.gate import Place
from onnxopt.core.guarding import Undone
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.runtime.guard.attempts import Attempt, attempt
from onnxopt.runtime.guard.bisecting import Bisection, Blocked, Complaint, HopelessError
from onnxopt.runtime.guard.budget import BudgetSpentError
from onnxopt.runtime.guard.judges import Judges
from onnxopt.runtime.guard.suspecting import suspects
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.parity.check import ParityResult


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
            self.ratio, slower = self._judges.proven_slower(base, one.model)
            return slower

        done = self._repair(first, reason, complaint, by_node=False, search=search)
        if done.blocked != first.blocked and self._parity_complaint(done):
            # A state that nobody checked before, and wrong: rewrites that need each other.
            done = self._undo(first, f"{reason}, and not at parity in part")
        self.parity = self._verdicts.get(done.blocked)
        return done

    def settle_parts(self, done: Attempt, names: Collection[str], share: float) -> Attempt:
        """Leaves out one rule after the other: what is proven to slow the rest down is undone.

        A group may be faster in all although a part of it is slower.

        Args:
            done: The group as it is.
            names: Passes that claim speed; others are not tried.
            share: What this may take of the rest of the budget.
        """
        budget = self._judges.budget
        limit = budget.spent + share * (budget.seconds - budget.spent)
        counts = Counter((p.pass_, p.rule) for p in done.taken if p.pass_ in names)
        if len(counts) < 2:
            return done  # the group was timed as a whole
        for (name, rule), _ in counts.most_common():
            if budget.spent >= limit:
                break
            place = Place(name, rule)
            try:
                without = self._retry(done.blocked | {place}, ())
            except BudgetSpentError:
                break
            _, reason = self._judges.proven_slower(without.model, done.model)
            if not reason or self._parity_complaint(without):
                continue
            nodes = tuple(
                dict.fromkeys(
                    p.node for p in done.taken if p.node and (p.pass_, p.rule) == (name, rule)
                )
            )
            self.undone.append(Undone(passes=(name,), rule=rule, nodes=nodes, reason=reason))
            done = without
            self.ratio = self._judges.speed(self._source(), done.model) or self.ratio
        self.parity = self._verdicts.get(done.blocked)
        return done

    def _repair(
        self, first: Attempt, reason: str, complaint: Complaint, *, by_node: bool, search: bool
    ) -> Attempt:
        if not search:
            return self._undo(first, f"{reason} (the budget ran out before this group)")
        suspected = self._suspects if by_node else None
        bisection = Bisection(self._retry, complaint, by_node=by_node, suspects=suspected)
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
        self._judges.begin_attempt()
        return attempt(self._source, self._group, blocked, observers)

    def _suspects(self, bad: Attempt) -> list[Place]:
        sets = self._judges.sets
        if not sets:
            return []
        self._judges.say("looking for the node that differs")
        # What is small is enough to see an error, and whatever differs anywhere does so mostly.
        smallest = min(sets, key=lambda s: sum(getattr(a, "size", 1) for a in s.feeds.values()))
        return suspects(self._source(), bad.model, smallest.feeds, bad.taken)

    def _parity_complaint(self, one: Attempt) -> str:
        result = self._verdicts[one.blocked] = self._judges.parity(one.model)
        return result.reasons[0] if result.status == "failed" else ""


def _passes(places: Blocked) -> set[str]:
    return {place.pass_ for place in places}

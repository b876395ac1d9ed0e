"""What candidates of the guard are judged by, what that may cost, and the record of it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.guarding import GuardRecord
from onnxopt.core.pipeline import Observer
from onnxopt.runtime.guard.budget import Budget
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.measuring.speed import Measure
from onnxopt.runtime.parity.check import ParityCheck, ParityResult

# Of a single timing, only this is taken as proof.
_CLEARLY = 0.95


class Judges:
    """What candidates are judged by, what that may cost, and the record of it.

    Args:
        check: Checks models against the original.
        measure: Times a model against another.
        budget: What may be spent.
        record: Counts what was done.
        observers: Told what goes on.
    """

    def __init__(
        self,
        check: ParityCheck,
        measure: Measure,
        budget: Budget,
        record: GuardRecord,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.budget = budget
        self.record = record
        self._check = check
        self._measure = measure
        self._observers = observers
        self._longest_timing = 0.0
        self._attempt_began: float | None = None

    @property
    def sets(self) -> Sequence[InputSet]:
        """The inputs that models are judged on; empty before the first check."""
        return self._check.sets

    def say(self, what: str) -> None:
        """Tells observers what goes on."""
        for observer in self._observers:
            observer.working(f"guard: {what}")

    def begin_attempt(self) -> None:
        """Counts an attempt.

        Raises:
            BudgetSpentError: Another one like the last does not fit into the budget.
        """
        spent = self.budget.spent
        last = 0.0 if self._attempt_began is None else spent - self._attempt_began
        self._attempt_began = spent
        self.budget.require(last)
        self.record.attempts += 1
        self.say(f"attempt {self.record.attempts}, {spent:.0f} s of {self.budget.seconds:g} s")

    def parity(self, model: ir.Model) -> ParityResult:
        """Checks a model against the original."""
        if not self.record.attempts:
            self.say("parity run")
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
        self.say(f"timing {self.record.timings}, {self.budget.spent:.0f} s spent")
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
        if second is None and first.high > _CLEARLY:
            return first, ""  # without time for a second one, only a clear difference is proof
        return first, slowness(second or first)


def slowness(ratio: Ratio) -> str:
    """What is wrong with a speed; "" if it is not proven slower."""
    if ratio.verdict != "slower":
        return ""
    return f"{ratio.median:.2f}x as fast as without it (95 %: {ratio.low:.2f} to {ratio.high:.2f})"

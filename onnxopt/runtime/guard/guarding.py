"""The guard: runs passes, proves what they did, and undoes what is wrong or does not pay.

"parity" runs all passes and checks the result once. Only if it fails does the guard look for the
culprit, with all passes as one transaction.
"full" makes a transaction of every pass, and of every group that repeats until nothing changes:
parity after each, and a timing against the state before it where a pass claims speed.
docs/guard.md says how it decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import PassFailedError
from onnxopt.core.gate import Gate, Place
from onnxopt.core.guarding import GuardRecord, Undone
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat, pass_name
from onnxopt.core.report import PassRecord
from onnxopt.core.snapshot import restore, snapshot
from onnxopt.core.timing import timed
from onnxopt.runtime.guard.attempts import Attempt, attempt
from onnxopt.runtime.guard.budget import Budget
from onnxopt.runtime.guard.judges import Judges
from onnxopt.runtime.guard.transaction import Transaction
from onnxopt.runtime.measuring.speed import Measure
from onnxopt.runtime.parity.check import ParityCheck, ParityResult

GuardMode = Literal["parity", "full"]
Items = Sequence[AnyPass | Repeat]

DEFAULT_BUDGET = 60.0
# What looking for slow parts of a group may take of what is left; other groups follow.
_SHARE_FOR_PARTS = 0.5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a guarded run came to.

    Attributes:
        records: One for each run of each pass that was kept.
        parity: The verdict on the final model; "failed" only if no part of the passes is to blame.
        guard: What the guard did.
        seconds: Phase ("passes", "parity", "guard") to wall time.
    """

    records: list[PassRecord]
    parity: ParityResult
    guard: GuardRecord
    seconds: dict[str, float]


class Guard:
    """Guards one run of passes over one model.

    Args:
        check: Checks models against the original.
        measure: Times a model against another.
        mode: When to check.
        budget: What the guard may spend; the parity run of "parity" comes on top.
        observers: Told about the first run of every pass.
    """

    def __init__(
        self,
        check: ParityCheck,
        measure: Measure,
        *,
        mode: GuardMode = "parity",
        budget: Budget | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._budget = budget or Budget(DEFAULT_BUDGET)
        self._record = GuardRecord(mode=mode, budget=self._budget.seconds)
        self._judges = Judges(check, measure, self._budget, self._record, observers)
        self._observers = tuple(observers)
        self._records: list[PassRecord] = []
        self._parity: ParityResult | None = None
        self._seconds = {"passes": 0.0, "parity": 0.0, "guard": 0.0}

    def run(self, model: ir.Model, passes: Items, fresh: Callable[[], ir.Model]) -> Outcome:
        """Runs the passes on `model`, in place.

        Args:
            model: The model, as `fresh` makes it.
            passes: What to run.
            fresh: Makes the model again, to start from when something went wrong.

        Raises:
            OnnxOptError: A pass cannot be used on this model, or ONNX Runtime is not installed.
        """
        if self._record.mode == "full":
            self._run_groups(model, passes)
        else:
            self._run_at_once(model, passes, fresh)
        if self._parity is None:
            with timed(self._seconds, "parity"):
                self._parity = self._judges.parity(model)
        self._record.seconds = self._seconds["guard"] = self._budget.spent
        seconds = {phase: value for phase, value in self._seconds.items() if round(value, 3)}
        return Outcome(self._records, self._parity, self._record, seconds)

    def _run_at_once(self, model: ir.Model, passes: Items, fresh: Callable[[], ir.Model]) -> None:
        gate = Gate()
        pipeline = Pipeline(passes, observers=self._observers, gate=gate)
        transaction = Transaction(fresh, passes, self._judges)
        first: Attempt | None = None
        parity: ParityResult | None = None
        try:
            with timed(self._seconds, "passes"):
                records = pipeline.call(model).records
            first = Attempt(model, records, gate.taken, frozenset(), {})
            with timed(self._seconds, "parity"):
                parity = self._judges.parity(model)
        except PassFailedError:
            pass  # The transaction finds out who raised, and goes on without.
        with self._budget.spending():
            done = transaction.settle_parity(first or transaction.run(), verdict=parity)
        self._keep(done, transaction, model)

    def _run_groups(self, model: ir.Model, passes: Items) -> None:
        with self._budget.spending():
            start = snapshot(model)
        rest = list(passes)
        ratios: list[dict[str, Any]] = []
        while rest:
            # When the budget is spent, all that is left is one group: one check, no search.
            search = not self._budget.exhausted
            group = [rest.pop(0)] if search else rest
            rest = rest if search else []
            self._record.exhausted |= not search
            ratios += self._run_group(model, group, search)
        if len(ratios) == 1:
            self._record.speed = ratios[0]
        elif ratios and self._budget.exhausted:
            self._record.exhausted = True
        elif ratios:
            with self._budget.spending():
                self._compare_with_input(model, start, passes)

    def _run_group(self, model: ir.Model, group: Items, search: bool) -> list[dict[str, Any]]:
        """Runs one group; the result is its speed, if it changed anything and claims speed."""
        with self._budget.spending():
            before = snapshot(model)
        transaction = Transaction(before.clone, group, self._judges)
        with timed(self._seconds, "passes"):
            done = transaction.run(self._observers)
        if done.taken:
            with self._budget.spending():
                done = transaction.settle_parity(done, search=search)
                fast = _fast(group)
                if {place.pass_ for place in done.taken} & fast:
                    done = transaction.settle_speed(done, search=search)
                    if search:
                        done = transaction.settle_parts(done, fast, _SHARE_FOR_PARTS)
        self._keep(done, transaction, model)
        return [] if transaction.ratio is None else [transaction.ratio.to_dict()]

    def _compare_with_input(self, model: ir.Model, start: ir.Model, passes: Items) -> None:
        """Groups of which none is proven slower may be slower together."""
        ratio, reason = self._judges.proven_slower(start, model)
        self._record.speed = None if ratio is None else ratio.to_dict()
        if not reason:
            return
        names = tuple(sorted(_fast(passes)))
        done = attempt(start.clone, passes, frozenset(map(Place, names)))
        self._records = done.records
        self._record.undone = [Undone(passes=names, reason=f"together {reason}")]
        self._record.speed = None
        self._parity = None
        restore(model, done.model)

    def _keep(self, done: Attempt, transaction: Transaction, model: ir.Model) -> None:
        self._records += done.records
        self._record.undone += transaction.undone
        self._parity = transaction.parity or self._parity
        restore(model, done.model)


def _fast(passes: Items) -> set[str]:
    """Names of the passes that claim to make a model faster, as all do that do not say else."""
    return {
        pass_name(pass_)
        for pass_ in Pipeline(passes).flattened()
        if getattr(pass_, "claims_speed", True)
    }

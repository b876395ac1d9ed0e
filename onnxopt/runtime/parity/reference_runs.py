"""What the first of two models computed, and the inputs to run the second one on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.plan import InputPlan, InputSet
from onnxopt.runtime.inputs.trials import Trials, run_plan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparable_session import ComparableSession
from onnxopt.runtime.parity.spooling import Spool

# The noise is measured on the first runs: as many as take so long and make so much.
_NOISE_SECONDS = 1.0
_NOISE_BYTES = 64 << 20


class ReferenceRuns:
    """The runs of the reference.

    Args:
        plan: How to make the inputs.

    Attributes:
        descriptions: The inputs in words.
        notes: What was found out about the sizes it runs at.
        outputs: Results, padding left out.
    """

    def __init__(self, plan: InputPlan) -> None:
        self.descriptions: list[str] = []
        self.notes: tuple[str, ...] = ()
        self.outputs = Spool()
        self._plan = plan
        self._synthesized: Sequence[InputSet] = ()
        self._seconds: list[float] = []

    def run(
        self, session: ComparableSession, see: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Runs the reference on everything.

        Args:
            session: The reference.
            see: Told all results on the user's data, padding included.

        Raises:
            InvalidInputError: It does not run.
        """
        try:
            if self._plan.data:
                self._run_data(session, see)
            else:
                trials = run_plan(session, self._plan, self.outputs)
                self._synthesized, self.notes = trials.sets, trials.notes
                self.descriptions = [one.description for one in trials.sets]
                self._seconds = [trials.seconds / len(trials.sets)] * len(trials.sets)
        except CannotRunError as error:
            advice = "" if self._plan.data else "; give data (--inputs) or shapes (--input-shape)"
            raise InvalidInputError(
                f"the first model does not run: {error.reason}{advice}"
            ) from error

    def inputs(self) -> Iterator[InputSet]:
        """The inputs in order; the user's are read again each time."""
        if self._synthesized:
            yield from self._synthesized
            return
        for run in range(self._plan.sets):
            yield self._plan.build(self._plan.wanted(run), run)

    def first(self) -> Trials:
        """The first few runs, to measure the noise on."""
        count, seconds, size = 0, 0.0, 0
        for index, took in enumerate(self._seconds):
            seconds += took
            size += sum(getattr(array, "nbytes", 0) for array in self.outputs[index].values())
            if count and (seconds > _NOISE_SECONDS or size > _NOISE_BYTES):
                break
            count += 1
        sets = tuple(one for _, one in zip(range(count), self.inputs(), strict=False))
        return Trials(sets, tuple(self.outputs[index] for index in range(count)))

    def _run_data(
        self, session: ComparableSession, see: Callable[[dict[str, Any]], None] | None
    ) -> None:
        for one in self.inputs():
            start = time.perf_counter()
            try:
                outputs = session.run_whole(one.feeds)
            except CannotRunError as error:
                raise CannotRunError(f"at {one.description}: {error.reason}") from error
            self.outputs.append(session.trimmed(outputs, one.feeds))
            self.descriptions.append(one.description)
            self._seconds.append(time.perf_counter() - start)
            if see is not None:
                see(outputs)

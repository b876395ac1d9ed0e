"""Two models on the same inputs: one after the other, so that only one is in memory."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.plan import InputPlan
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparable_session import ComparableSession, check_interfaces
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.comparison_result import (
    ComparisonResult,
    OutputComparison,
    SetDifference,
)
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.judging import Judge
from onnxopt.runtime.parity.noise import NoiseRuns
from onnxopt.runtime.parity.padding import Masked, masked_outputs
from onnxopt.runtime.parity.randomness import random_outputs
from onnxopt.runtime.parity.reference_runs import ReferenceRuns
from onnxopt.runtime.parity.result import OutputParity
from onnxopt.runtime.parity.scoring import Scoring
from onnxopt.runtime.parity.tolerance import Tolerance
from onnxopt.runtime.providers import check_provider, find_providers
from onnxopt.runtime.session import Declared, Optimization, Session, open_session

Model = Path | ir.Model


class Comparing:
    """One comparison.

    Args:
        first: The reference.
        second: The other model.
        graph: The reference's graph.
        plan: How to make the inputs.
        provider: "cpu" or "cuda".
        threads: Threads inside an operator.
        optimization: ONNX Runtime's own optimization of both.
        tolerance: Takes the place of that from the reference's noise.
        scoring: Labels to score both models against.
    """

    def __init__(
        self,
        first: Model,
        second: Model,
        graph: ir.Model,
        plan: InputPlan,
        *,
        provider: str,
        threads: int | None,
        optimization: Optimization,
        tolerance: float | None,
        scoring: Scoring | None,
    ) -> None:
        self._models = (first, second)
        self._graph = graph
        self._specs = plan.specs
        self._runs = ReferenceRuns(plan)
        self._providers = find_providers(provider)
        self._threads = threads
        self._optimization: Optimization = optimization
        self._tolerance = tolerance
        self._scoring = scoring
        self._masks: dict[str, Masked] = {}
        self._outputs: tuple[Declared, ...] = ()
        self._notes: list[str] = []

    def run(self) -> ComparisonResult:
        """Runs and compares both models.

        Raises:
            InvalidInputError: The reference does not run, or the models cannot be compared.
        """
        start = time.perf_counter()
        random = random_outputs(self._graph)
        self._notes += [f"{o}: not comparable, {cause} is random" for o, cause in random.items()]
        interface = self._run_first()
        names = [value.name for value in interface[1] if value.name not in random]
        if not names:
            raise InvalidInputError(f"no output can be compared: {'; '.join(self._notes)}")
        try:
            differences = self._run_second(interface, names)
        except CannotRunError as error:
            reasons: tuple[str, ...] = (f"the second model does not run: {error.reason}",)
            return self._result(reasons, (), start)
        found = [one for each in differences.values() for one in each]
        if not any(one.elements or one.broken for one in found):
            raise InvalidInputError(
                "nothing can be compared: no output has any entries on these inputs; give larger "
                "ones (--inputs)"
            )
        outputs = self._judged(differences)
        failed = [o for o in outputs if o.parity.complaint]
        # A tolerance of 0 is the user's to give.
        least = sys.float_info.min
        failed.sort(
            key=lambda o: -o.parity.difference.relative / max(o.parity.tolerance.relative, least)
        )
        reasons = tuple(f"output {o.parity.name!r}: {o.parity.complaint}" for o in failed)
        return self._result(reasons, outputs, start)

    def _run_first(self) -> tuple[tuple[Declared, ...], tuple[Declared, ...]]:
        session = self._opened(0)
        interface = session.inputs, session.outputs
        self._outputs = session.outputs
        self._masks = masked_outputs(self._specs, *interface)
        scoring = self._scoring
        see = None if scoring is None else lambda outputs: scoring.add(0, outputs)
        self._runs.run(ComparableSession(session, self._masks, self._outputs), see)
        self._notes += self._runs.notes
        return interface

    def _run_second(
        self, interface: tuple[Sequence[Declared], Sequence[Declared]], names: Sequence[str]
    ) -> dict[str, list[Difference]]:
        session = self._opened(1)
        self._notes += check_interfaces(interface, session)
        session = ComparableSession(session, self._masks, self._outputs)
        found: dict[str, list[Difference]] = {name: [] for name in names}
        for index, one in enumerate(self._runs.inputs()):
            try:
                outputs = session.run_whole(one.feeds)
            except CannotRunError as error:
                raise CannotRunError(f"at {one.description}: {error.reason}") from error
            if self._scoring is not None:
                self._scoring.add(1, outputs)
            trimmed, reference = session.trimmed(outputs, one.feeds), self._runs.outputs[index]
            for name in names:
                found[name].append(compare(reference[name], trimmed[name]))
            # Large results make room for those of the next run.
            del outputs, trimmed, reference
        return found

    def _judged(self, found: dict[str, list[Difference]]) -> tuple[OutputComparison, ...]:
        worst = {}
        for name, differences in found.items():
            worst[name] = differences[0]
            for difference in differences[1:]:
                worst[name] = worst[name].merge(difference)
        opener = self._comparable
        noise = NoiseRuns(self._models[0], opener, self._optimization)
        judge = Judge(self._models[0], self._models[1], self._graph, opener, noise)
        verdicts = judge.verdicts(worst, self._runs.first(), always_measure=True)
        self._notes += judge.notes
        return tuple(
            OutputComparison(
                self._with_tolerance(verdict),
                tuple(map(SetDifference, self._runs.descriptions, found[verdict.name])),
                self._masks[verdict.name].mask if verdict.name in self._masks else "",
            )
            for verdict in verdicts
        )

    def _with_tolerance(self, verdict: OutputParity) -> OutputParity:
        if self._tolerance is None:
            return verdict
        wanted = Tolerance(*(self._tolerance,) * 4)
        complaint = wanted.complaint(verdict.difference)
        return dataclasses.replace(verdict, tolerance=wanted, complaint=complaint)

    def _comparable(
        self, model: Any, optimization: Optimization, *, threads: int | None = None
    ) -> Session:
        session = self._open(model, optimization, threads or self._threads)
        return ComparableSession(session, self._masks, self._outputs)

    def _opened(self, index: int) -> Session:
        try:
            session = self._open(self._models[index], self._optimization, self._threads)
        except CannotRunError as error:
            which = "second" if index else "first"
            raise InvalidInputError(f"the {which} model does not load: {error.reason}") from error
        check_provider(session, self._providers)
        return session

    def _open(self, model: Any, optimization: Optimization, threads: int | None) -> Session:
        return open_session(
            model,
            optimization=optimization,
            threads=threads,
            providers=self._providers,
            spinning=False,
            reuse_memory=False,
            arena=False,
        )

    def _result(
        self, reasons: tuple[str, ...], outputs: tuple[OutputComparison, ...], start: float
    ) -> ComparisonResult:
        scores = () if self._scoring is None or not outputs else self._scoring.scores()
        return ComparisonResult(
            "failed" if reasons else "passed",
            reasons,
            outputs,
            tuple(self._runs.descriptions),
            scores,
            tuple(self._notes),
            time.perf_counter() - start,
        )

"""Whether an optimized model still computes what the original computes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.plan import InputPlan, InputSet, plan_inputs
from onnxopt.runtime.inputs.trials import Trials, run_plan, run_sets
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparable_session import ComparableSession
from onnxopt.runtime.parity.declarations import interface_complaints, shape_complaints
from onnxopt.runtime.parity.judging import Judge
from onnxopt.runtime.parity.noise import NoiseRuns
from onnxopt.runtime.parity.padding import Masked, describe, masked_outputs
from onnxopt.runtime.parity.randomness import random_outputs
from onnxopt.runtime.parity.result import OutputParity, ParityResult, Status
from onnxopt.runtime.session import CPU, Declared, ModelSource, Optimization, Session, open_session

__all__ = ["OutputParity", "ParityCheck", "ParityResult", "Status", "check_parity"]


def check_parity(
    original: ModelSource,
    optimized: ModelSource,
    *,
    input_sets: InputPlan | Sequence[InputSet] | None = None,
    optimization: Optimization = "all",
    threads: int | None = None,
    providers: Sequence[str] = CPU,
) -> ParityResult:
    """Runs both models on the same inputs and compares their outputs.

    Only one session is open at a time. The noise of the original is measured only when an output is
    above the fixed floor. What a mask in the inputs declares to be padding is left out.

    Args:
        original: The reference.
        optimized: What became of it.
        input_sets: Inputs, or the plan to make them; by default planned from the original.
        optimization: ONNX Runtime's own optimization in both.
        threads: Threads inside an operator.
        providers: Execution providers for both.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    check = ParityCheck(
        original,
        input_sets=input_sets,
        optimization=optimization,
        threads=threads,
        providers=providers,
    )
    return check.check(optimized)


@dataclasses.dataclass(frozen=True)
class _Reference:
    """What the original computed and declares.

    Attributes:
        trials: Its runs.
        inputs: Its declared inputs.
        outputs: Its declared outputs.
        odd_shapes: Where its results contradict its own declarations.
    """

    trials: Trials
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    odd_shapes: tuple[str, ...]


class ParityCheck:
    """Checks one or more models against one original, which is run and measured only once.

    The arguments are those of `check_parity`.
    """

    def __init__(
        self,
        original: ModelSource,
        *,
        input_sets: InputPlan | Sequence[InputSet] | None = None,
        optimization: Optimization = "all",
        threads: int | None = None,
        providers: Sequence[str] = CPU,
    ) -> None:
        self._original = original
        self._input_sets = input_sets
        self._optimization: Optimization = optimization
        self._settings: dict[str, Any] = {
            "threads": threads,
            "providers": providers,
            # Several sessions take turns, and nothing is timed here.
            "spinning": False,
            # A wrong shape between two nodes is no fault of the results.
            "reuse_memory": False,
            "arena": False,
        }
        self._graph = _as_graph(original)
        self._masks: dict[str, Masked] = {}
        self._outputs: tuple[Declared, ...] = ()
        self._random = {} if self._graph is None else random_outputs(self._graph)
        self._noise = NoiseRuns(original, self._open, optimization)
        self._known: _Reference | None = None
        self._refusal = ""

    def check(self, optimized: ModelSource) -> ParityResult:
        """Whether `optimized` computes what the original computes.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
        """
        start = time.perf_counter()
        result = self._check(optimized)
        return dataclasses.replace(result, seconds=time.perf_counter() - start)

    def _check(self, optimized: ModelSource) -> ParityResult:
        random = self._random
        if self._graph is not None and len(random) == len(self._graph.graph.outputs) > 0:
            return ParityResult(
                "not-run", (f"not comparable: {next(iter(random.values()))} is random",)
            )
        known = self._reference()
        if known is None:
            return ParityResult("not-run", (f"the original does not run: {self._refusal}",))
        reference = known.trials
        notes = [
            *reference.notes,
            *(f"{o}: not comparable, {r} is random" for o, r in random.items()),
            *describe(self._masks),
        ]
        described = ParityResult(
            "failed",
            inputs=tuple(one.description for one in reference.sets),
            notes=tuple(notes),
            feeds=reference.sets[0].feeds,
        )
        try:
            session = self._open(optimized, self._optimization)
            complaints = interface_complaints(known.inputs, known.outputs, session)
            if complaints:
                return dataclasses.replace(described, reasons=tuple(complaints))
            result = run_sets(session, reference.sets)
        except CannotRunError as error:
            reason = f"the optimized model does not run: {error.reason}"
            return dataclasses.replace(described, reasons=(reason,))
        complaints = [c for c in shape_complaints(session, result) if c not in known.odd_shapes]
        del session
        judge = Judge(self._original, optimized, self._graph, self._open, self._noise)
        outputs = judge.outputs(reference, result, skipped=random)
        described = dataclasses.replace(described, notes=(*described.notes, *judge.notes))
        failed = sorted((o for o in outputs if o.complaint), key=_excess, reverse=True)
        reasons = (*(f"output {o.name!r}: {o.complaint}" for o in failed), *complaints)
        return dataclasses.replace(
            described,
            status="failed" if reasons else "passed",
            reasons=reasons,
            outputs=tuple(outputs),
        )

    @property
    def sets(self) -> tuple[InputSet, ...]:
        """The inputs that the original runs on; empty before the first check."""
        return () if self._known is None else self._known.trials.sets

    def _reference(self) -> _Reference | None:
        if self._known is None and not self._refusal:
            try:
                self._known = self._run_original()
            except CannotRunError as error:
                self._refusal = error.reason
        return self._known

    def _run_original(self) -> _Reference:
        # Its session goes, and its weights with it, before those of the optimized model come in.
        session = self._open(self._original, self._optimization)
        if self._graph is not None:
            specs = plan_inputs(self._graph).specs
            self._masks = masked_outputs(specs, session.inputs, session.outputs)
            self._outputs = session.outputs
            session = self._masked(session)
        trials = self._trials(session)
        return _Reference(
            trials, session.inputs, session.outputs, tuple(shape_complaints(session, trials))
        )

    def _trials(self, session: Session) -> Trials:
        input_sets = self._input_sets
        if input_sets is None:
            if self._graph is None:
                raise CannotRunError(
                    "its graph cannot be read, so that its inputs have to be given"
                )
            input_sets = plan_inputs(self._graph)
        if isinstance(input_sets, InputPlan):
            return run_plan(session, input_sets)
        return run_sets(session, input_sets)

    def _open(self, model: ModelSource, optimization: Optimization, **changed: Any) -> Session:
        session = open_session(model, optimization=optimization, **{**self._settings, **changed})
        return self._masked(session)

    def _masked(self, session: Session) -> Session:
        return ComparableSession(session, self._masks, self._outputs) if self._masks else session


def _excess(output: OutputParity) -> float:
    if output.difference.broken:
        return float("inf")
    return output.difference.relative / output.tolerance.relative


def _as_graph(model: ModelSource) -> ir.Model | None:
    """The model's graph; None if it cannot be read."""
    if isinstance(model, ir.Model):
        return model
    try:
        return _parsed(model) if isinstance(model, bytes) else load_model(model)
    except OnnxOptError:
        return None


def _parsed(model: bytes) -> ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return load_model(path)

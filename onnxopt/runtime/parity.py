"""Whether an optimized model still computes what the original computes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.declarations import interface_complaints, shape_complaints
from onnxopt.runtime.inputs import InputPlan, InputSet, plan_inputs
from onnxopt.runtime.judging import Judge
from onnxopt.runtime.parity_result import OutputParity, ParityResult, Status
from onnxopt.runtime.randomness import random_outputs
from onnxopt.runtime.session import (
    CPU,
    CannotRunError,
    ModelSource,
    Optimization,
    Session,
    open_session,
)
from onnxopt.runtime.trials import Trials, run_plan, run_sets

__all__ = ["OutputParity", "ParityResult", "Status", "check_parity"]


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
    above the fixed floor. Masked positions are compared like all others.

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
    start = time.perf_counter()
    settings: dict[str, Any] = {
        "threads": threads,
        "providers": providers,
        # Several sessions take turns, and nothing is timed here.
        "spinning": False,
        # A wrong shape between two nodes is no fault of the results.
        "reuse_memory": False,
    }
    check = _Check(original, optimized, optimization, settings)
    result = check.run(input_sets)
    return dataclasses.replace(result, seconds=time.perf_counter() - start)


class _Check:
    """One parity check."""

    def __init__(
        self,
        original: ModelSource,
        optimized: ModelSource,
        optimization: Optimization,
        settings: Mapping[str, Any],
    ) -> None:
        self.original = original
        self.optimized = optimized
        self.optimization = optimization
        self.settings = settings
        self.graph = _as_graph(original)

    def run(self, input_sets: InputPlan | Sequence[InputSet] | None) -> ParityResult:
        random = {} if self.graph is None else random_outputs(self.graph)
        if self.graph is not None and len(random) == len(self.graph.graph.outputs) > 0:
            return ParityResult(
                "not-run", (f"not comparable: {next(iter(random.values()))} is random",)
            )
        try:
            session = self._open(self.original, self.optimization)
            reference = self._reference(session, input_sets)
        except CannotRunError as error:
            return ParityResult("not-run", (f"the original does not run: {error.reason}",))
        notes = [
            *reference.notes,
            *(f"{o}: not comparable, {r} is random" for o, r in random.items()),
        ]
        described = ParityResult(
            "failed",
            inputs=tuple(one.description for one in reference.sets),
            notes=tuple(notes),
            feeds=reference.sets[0].feeds,
        )
        interface = session.inputs, session.outputs
        odd_shapes = shape_complaints(session, reference)
        del session  # its weights, before those of the optimized model come in
        try:
            session = self._open(self.optimized, self.optimization)
            complaints = interface_complaints(*interface, session)
            if complaints:
                return dataclasses.replace(described, reasons=tuple(complaints))
            result = run_sets(session, reference.sets)
        except CannotRunError as error:
            reason = f"the optimized model does not run: {error.reason}"
            return dataclasses.replace(described, reasons=(reason,))
        complaints = [c for c in shape_complaints(session, result) if c not in odd_shapes]
        del session
        judge = Judge(self.original, self.optimized, self.graph, self._open, self.optimization)
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

    def _reference(
        self, session: Session, input_sets: InputPlan | Sequence[InputSet] | None
    ) -> Trials:
        if input_sets is None:
            if self.graph is None:
                raise CannotRunError(
                    "its graph cannot be read, so that its inputs have to be given"
                )
            input_sets = plan_inputs(self.graph)
        if isinstance(input_sets, InputPlan):
            return run_plan(session, input_sets)
        return run_sets(session, input_sets)

    def _open(self, model: ModelSource, optimization: Optimization, **changed: Any) -> Session:
        return open_session(model, optimization=optimization, **{**self.settings, **changed})


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

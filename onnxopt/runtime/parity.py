"""Whether an optimized model still computes what the original computes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.comparison import Difference, compare
from onnxopt.runtime.declarations import interface_complaints, shape_complaints
from onnxopt.runtime.inputs import InputPlan, InputSet, plan_inputs
from onnxopt.runtime.randomness import random_outputs
from onnxopt.runtime.session import (
    CannotRunError,
    Feeds,
    ModelSource,
    Optimization,
    Session,
    open_session,
)
from onnxopt.runtime.tolerance import Tolerance, above_noise, floor
from onnxopt.runtime.trials import Trials, run_plan, run_sets

Status = Literal["passed", "failed", "not-run"]

# How much inputs are shaken to see what roundings grow to: two units in the last place of float32.
_SHAKE = 2.4e-7
# If the runs of the original took longer, its noise is measured on the first of them only.
_LONG_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class OutputParity:
    """One output over all runs.

    Attributes:
        name: Its name.
        difference: The largest differences.
        tolerance: What they may be.
        noise: What the original differs from itself by; None if it was not needed.
        complaint: Why it fails; empty if it passes.
    """

    name: str
    difference: Difference
    tolerance: Tolerance
    noise: Difference | None
    complaint: str

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "name": self.name,
            "passed": not self.complaint,
            **dataclasses.asdict(self.difference),
            "tolerance": dataclasses.asdict(self.tolerance),
            "noise": None if self.noise is None else dataclasses.asdict(self.noise),
            "complaint": self.complaint,
        }


@dataclasses.dataclass(frozen=True)
class ParityResult:
    """The outcome of a parity check.

    Attributes:
        status: "passed", "failed", or "not-run" if the original cannot be run or compared.
        reasons: Why it failed or did not run, worst first.
        outputs: Figures of each output.
        inputs: What the models were run on, in words.
        notes: What was found out on the way, as sizes that the original does not run at.
        seconds: How long it took.
        feeds: Inputs of the first run, to run the model again.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    outputs: tuple[OutputParity, ...] = ()
    inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    feeds: Feeds = dataclasses.field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, without the arrays."""
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "outputs": [output.to_dict() for output in self.outputs],
            "inputs": list(self.inputs),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """One line: the status and its most telling figure or reason."""
        if self.status != "passed":
            return f"parity {self.status}: {self.reasons[0]}"
        floats = [output for output in self.outputs if output.difference.kind == "float"]
        if not floats:
            return f"parity passed on {len(self.inputs)} input sets: equal"
        worst = max(floats, key=lambda o: o.difference.relative / o.tolerance.relative)
        return (
            f"parity passed on {len(self.inputs)} input sets: largest relative error "
            f"{worst.difference.relative:.1e} (tolerance {worst.tolerance.relative:.1e})"
        )


def check_parity(
    original: ModelSource,
    optimized: ModelSource,
    *,
    input_sets: InputPlan | Sequence[InputSet] | None = None,
    optimization: Optimization = "all",
    threads: int | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
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
        outputs = self._judge(reference, result, skipped=random)
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

    def _judge(
        self, reference: Trials, result: Trials, skipped: Mapping[str, str]
    ) -> list[OutputParity]:
        base = floor(self.graph)
        names = [name for name in reference.outputs[0] if name not in skipped]
        differences = {name: _difference(reference, result, name) for name in names}
        judged = [_judged(name, differences[name], base, None) for name in names]
        if not any(output.complaint for output in judged):
            return judged
        noise = {name: Difference("float") for name in names}
        for other in self._others(reference):
            for name in names:
                noise[name] = noise[name].merge(_difference(reference, other, name))
            judged = [_judged(name, differences[name], base, noise[name]) for name in names]
            if not any(output.complaint for output in judged):
                break
        return judged

    def _others(self, reference: Trials) -> Iterator[Trials]:
        """The original computed in other ways, cheapest first; fewer runs if they take long."""
        kept = 1 if reference.seconds > _LONG_SECONDS else len(reference.sets)
        sets = reference.sets[:kept]
        shaken = [dataclasses.replace(one, feeds=_shaken(one.feeds)) for one in sets]
        ways: tuple[tuple[Optimization, int | None, Sequence[InputSet]], ...] = (
            ("disabled", self.settings["threads"], sets),
            (self.optimization, 1, sets),
            (self.optimization, 1, shaken),
        )
        for optimization, threads, chosen in ways:
            try:
                session = self._open(self.original, optimization, threads=threads)
                yield run_sets(session, chosen)
            except CannotRunError:
                continue  # some models load at one level only

    def _open(self, model: ModelSource, optimization: Optimization, **changed: Any) -> Session:
        return open_session(model, optimization=optimization, **{**self.settings, **changed})


def _difference(reference: Trials, other: Trials, name: str) -> Difference:
    total: Difference | None = None
    # Noise may have been measured on the first runs only.
    for one, two in zip(reference.outputs, other.outputs, strict=False):
        difference = compare(one[name], two[name])
        total = difference if total is None else total.merge(difference)
    return Difference("float") if total is None else total


def _judged(
    name: str, difference: Difference, base: Tolerance, noise: Difference | None
) -> OutputParity:
    tolerance = base if noise is None else above_noise(base, noise)
    complaint = tolerance.complaint(difference)
    if noise is not None and noise.broken and complaint == difference.broken:
        complaint = ""  # the original's own shape or NaNs change with the roundings
    return OutputParity(name, difference, tolerance, noise, complaint)


def _shaken(feeds: Feeds) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shaken = dict(feeds)
    for name, array in feeds.items():
        if isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64):
            factor = 1 + _SHAKE * rng.choice([-1.0, 1.0], size=array.shape)
            shaken[name] = (array * factor).astype(array.dtype)
    return shaken


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

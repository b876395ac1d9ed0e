"""One guarded run for a report: plans the inputs, runs the guard, fills in what it found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.core.report import Report
from onnxopt.runtime.benchmark import Ratio
from onnxopt.runtime.budget import Budget
from onnxopt.runtime.guard import Guard, GuardMode
from onnxopt.runtime.inputs import InputSet, plan_inputs
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity import ParityCheck
from onnxopt.runtime.placement import find_placement
from onnxopt.runtime.providers import find_providers
from onnxopt.runtime.session import Feeds, ModelSource
from onnxopt.runtime.speed import Measure, measure_speed
from onnxopt.targets import Target


def run_guarded(
    model: ir.Model,
    passes: Sequence[AnyPass | Repeat],
    *,
    original: ModelSource,
    fresh: Callable[[], ir.Model],
    inputs: Any,
    target: Target,
    mode: GuardMode,
    budget: float,
    observers: Sequence[Observer],
    report: Report,
) -> Feeds | None:
    """Runs passes on a model, in place, under the guard.

    Args:
        model: The model, as `fresh` makes it.
        passes: What to run.
        original: What the result is compared with.
        fresh: Makes the model again.
        inputs: The user's data; None to synthesize.
        target: Where the result will run. Parity is judged on the CPU, speed there.
        mode: When to check.
        budget: Seconds that the guard may spend.
        observers: Told about the first run of every pass.
        report: Gets the records, the verdicts, the notes and the seconds.

    Returns:
        Inputs that the result runs on; None if the original does not run here.
    """
    check = ParityCheck(original, input_sets=plan_inputs(model, inputs))
    guard = Guard(
        check,
        _measure_on(target, report.notes),
        mode=mode,
        budget=Budget(budget),
        observers=observers,
    )
    outcome = guard.run(model, passes, fresh)
    parity = outcome.parity
    report.records = outcome.records
    report.guard = outcome.guard
    report.parity = {**parity.to_dict(), "summary": parity.summary()}
    report.notes += parity.notes
    report.seconds |= outcome.seconds
    if parity.status == "not-run":
        return None
    if target.provider == "cuda":
        report.placement, note = _placement(model, parity.feeds)
        report.notes.append(note)
    return parity.feeds


def _measure_on(target: Target, notes: list[str]) -> Measure:
    """Times on the target; where that is not possible, nothing is proven, and a note says so."""

    def measure(base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float) -> Ratio:
        try:
            providers = find_providers(target.provider)
        except InvalidInputError as error:
            note = f"speed was not measured: {error}"
            if note not in notes:
                notes.append(note)
            raise CannotRunError(str(error)) from error
        return time_pair(base, other, sets, limit, providers=providers)

    time_pair = functools.partial(measure_speed, threads=target.threads)
    return measure


def _placement(model: ir.Model, feeds: Feeds) -> tuple[dict[str, Any] | None, str]:
    try:
        found = find_placement(model, feeds, find_providers("cuda"))
    except (InvalidInputError, CannotRunError) as error:
        return None, f"nodes on the CPU and copies were not counted: {error}"
    return found.to_dict(), str(found)

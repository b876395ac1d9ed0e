"""One guarded run for a report: plans the inputs, runs the guard, fills in what it found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import AnyPass, Observer, Repeat
from onnxopt.core.report import Report
from onnxopt.core.timing import timed
from onnxopt.runtime.guard.budget import Budget
from onnxopt.runtime.guard.guarding import Guard, GuardMode
from onnxopt.runtime.inputs.plan import InputSet, plan_inputs
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.load_rewrites import search_load_options
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.measuring.speed import Measure, measure_speed
from onnxopt.runtime.parity.check import ParityCheck
from onnxopt.runtime.placement import find_placement
from onnxopt.runtime.providers import find_providers
from onnxopt.runtime.saved_options import in_words, save_options
from onnxopt.runtime.session import Feeds, ModelSource
from onnxopt.runtime.session_settings import SessionSettings
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
    if mode == "full" and parity.status == "passed":
        _search_session(model, parity.feeds, target, budget - outcome.guard.seconds, report)
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


def _search_session(
    model: ir.Model, feeds: Feeds, target: Target, seconds: float, report: Report
) -> None:
    """Fills `report.session`, and saves options in the model that are proven faster."""
    base = SessionSettings(provider=target.provider, threads=target.threads)
    try:
        find_providers(target.provider)
        with timed(report.seconds, "session options"):
            found = search_load_options(model, feeds, base, max(seconds, 0.0))
    except (InvalidInputError, CannotRunError) as error:
        report.notes.append(f"session options were not measured: {error}")
        return
    report.notes += found.notes
    if found.gain is not None:
        save_options(model, found.settings, found.gain.to_dict())
    elif not found.attempts:
        return
    report.session = {
        **{
            name: found.settings.to_dict()[name] for name in ("optimization", "disabled_optimizers")
        },
        **found.to_dict(),
        "summary": f"{in_words(found.settings)}: {found.gain} of the defaults"
        if found.gain is not None
        else f"ONNX Runtime's defaults ({len(found.attempts)} others were not proven faster)",
    }


def _placement(model: ir.Model, feeds: Feeds) -> tuple[dict[str, Any] | None, str]:
    try:
        found = find_placement(model, feeds, find_providers("cuda"))
    except (InvalidInputError, CannotRunError) as error:
        return None, f"nodes on the CPU and copies were not counted: {error}"
    return found.to_dict(), str(found)

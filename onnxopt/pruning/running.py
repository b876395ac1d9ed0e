"""The API of `onnxopt prune`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.collecting import DEFAULT_MEMORY
from onnxopt.calibration.data import CalibrationData, open_data
from onnxopt.calibration.measuring import HELD_OUT, overlap_notes, reference_on
from onnxopt.core.choices import check_choices
from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.core.pipeline import Observer
from onnxopt.core.timing import timed
from onnxopt.graph.saving import save_model
from onnxopt.passes.pruning.removing import PRUNED_KEY
from onnxopt.passes.pruning.unsharing import unshare
from onnxopt.passes.pruning.vocabulary import trim_vocabulary
from onnxopt.pruning.candidates import Candidate, size_of
from onnxopt.pruning.error_limit import require_error
from onnxopt.pruning.options import GOALS, PruneOptions, Vocabulary
from onnxopt.pruning.planning import Planner
from onnxopt.pruning.preparing import finished, prepare
from onnxopt.pruning.repairing import repair
from onnxopt.pruning.report import PruningReport
from onnxopt.runtime.library import require_runtime
from onnxopt.runtime.loadable import opens
from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.deviation import Deviation
from onnxopt.runtime.session import Feeds, open_session
from onnxopt.targets import as_target

if TYPE_CHECKING:
    from onnx import ModelProto

PathLike = str | os.PathLike[str]
_TIMING_SECONDS = 8.0
_SCALE_SECONDS = 0.5
# How far the time may be from what was asked for.
_LATENCY_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """A pruned model, and how it came about."""

    model: ir.Model
    report: PruningReport


def prune(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    calibration: Any = None,
    preprocess: str | Callable[[Path], Any] | None = None,
    tokenizer: PathLike | None = None,
    samples: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    target: Any = None,
    external_data: bool | None = None,
    vocabulary: Vocabulary | None = None,
    observers: Sequence[Observer] = (),
    **choices: Any,
) -> PruneResult:
    """Removes channels, neurons and heads, and re-fits the weights behind them.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where to write the result; None to only return it.
        calibration: Data: arrays by input name, a file, a folder, a function, an iterable (see
            `calibration.data.open_data`). Three quarters of it fit, the rest measures. Without it
            units are ranked by their weights and nothing is repaired.
        preprocess: How images become arrays.
        tokenizer: A folder with a tokenizer.json, for text.
        samples: Use no more input sets than this.
        max_memory: Bytes for moments, beyond the model and the activations of a run.
        input_shapes: Shapes of inputs that are synthesized.
        target: Where the result will run (see `optimize`).
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        vocabulary: Token ids to keep; with it alone nothing else is removed.
        observers: Told about the passes of the preparation.
        choices: Fields of `PruneOptions`: sparsity, target_flops, target_size, target_latency,
            scope, importance, multiple, widths, exclude, repair, ...

    Returns:
        The pruned model and the report.

    Raises:
        ParityError: The error is over `max_error`.
        OnnxOptError: A model or data cannot be read, an option does not fit, the model is quantized
            or pruned already, or the target cannot be met.
    """
    check_choices(PruneOptions, choices, internal={"target"})
    choices["exclude"] = tuple(choices.get("exclude", ()))
    choices["kinds"] = tuple(choices.get("kinds", ()))
    if vocabulary is not None and not any(choices.get(name) for name in GOALS):
        choices["sparsity"] = 0.0
    options = PruneOptions(target=as_target(target), **choices)
    require_runtime()
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    report = PruningReport(source=source)
    with timed(report.seconds, "prepare"):
        work, report.preparation = prepare(model, output, options.target, observers)
        if PRUNED_KEY in work.metadata_props:
            raise InvalidInputError(
                f"{source or 'the model'} was pruned already "
                f"({work.metadata_props[PRUNED_KEY]}): prune the original"
            )
        unshare(work, Names(work))
    whole = work.clone()
    if vocabulary is not None:
        gone = trim_vocabulary(
            work,
            vocabulary.keep,
            vocabulary.unknown,
            narrow_outputs=vocabulary.narrow_outputs,
        )
        report.notes.append(f"the vocabulary lost {gone:,} tokens; they read as the unknown one")
    data = open_data(
        calibration,
        work,
        preprocess=preprocess,
        tokenizer=tokenizer,
        limit=samples,
        input_shapes=input_shapes,
    )
    report.notes += data.notes
    job = _Job(whole, work, options, data, report, max_memory)
    result = job.run()
    if output is not None:
        verify = opens("the pruned model", options.target.execution_providers)
        with timed(report.seconds, "save"):
            save_model(result, output, external_data=external_data, verify=verify)
        report.output = os.fspath(output)
    return PruneResult(result, report)


class _Job:
    """Choosing, removing and repairing on one prepared model."""

    def __init__(
        self,
        whole: ir.Model,
        model: ir.Model,
        options: PruneOptions,
        data: CalibrationData,
        report: PruningReport,
        max_memory: int,
    ) -> None:
        self._whole = whole
        self._model, self._options, self._data = model, options, data
        self._report, self._max_memory = report, max_memory
        self._fitting, self._measuring = data.split(HELD_OUT)
        report.notes += overlap_notes(data, self._fitting, self._measuring, "fitted")

    def run(self) -> ir.Model:
        """The pruned model; fills the report."""
        options, report = self._options, self._report
        providers = options.target.execution_providers
        with timed(report.seconds, "reference"):
            reference = reference_on(self._model, self._data, self._measuring, providers)
        report.measured = len(reference.sets)
        planner = Planner(
            self._model, options, self._data, self._fitting, reference, report, self._max_memory
        )
        with timed(report.seconds, "choose"):
            candidate = planner.choose()
        report.sizes = planner.sizes
        report.before = size_of(self._whole, planner.sizes)
        with timed(report.seconds, "measure"):
            report.unrepaired = reference.deviation(candidate.model)
        pruned, unrepaired = candidate.model, candidate.model.clone()
        self._repair(candidate)
        with timed(report.seconds, "measure"):
            if report.repairs and not self._is_better(reference.deviation(pruned)):
                pruned = unrepaired
            elif not report.repairs:
                report.error, report.unrepaired = report.unrepaired, None
        report.after = size_of(pruned, planner.sizes)
        require_error(report.error, options.max_error, report.goal, report)
        result = finished(pruned, options.target)
        with timed(report.seconds, "time"):
            report.speed = measure_speed(
                planner.whole,
                result,
                reference.sets,
                min(_TIMING_SECONDS, options.budget / 4),
                threads=options.target.threads,
                providers=providers,
            )
            report.milliseconds = self._milliseconds(
                planner.whole, reference.feeds, report.speed.median
            )
        if options.goal == "latency":
            self._judge_latency(1 / report.speed.median)
        result.metadata_props[PRUNED_KEY] = report.goal
        return result

    def _is_better(self, repaired: Deviation) -> bool:
        """Takes the repaired model's error into the report, unless it is larger than without."""
        report = self._report
        assert report.unrepaired is not None
        if repaired.broken or repaired.rms > report.unrepaired.rms:
            report.notes.append(
                f"the repair is undone: error {repaired.rms:.2%} with it, "
                f"{report.unrepaired.rms:.2%} without, on data that it was not fitted on"
            )
            report.repairs = []
            report.error, report.unrepaired = report.unrepaired, None
            return False
        report.error = repaired
        return True

    def _judge_latency(self, share: float) -> None:
        """The last measurement counts, not those of the search."""
        report, wanted = self._report, self._options.share
        report.reached = share
        report.met = abs(share - wanted) <= _LATENCY_TOLERANCE * wanted
        if not report.met:
            report.notes.append(
                f"{share:.3f}x of the time is left, not {wanted:g}x: widths go in steps, and "
                "timings of small models scatter"
            )

    def _milliseconds(self, whole: ir.Model, feeds: Feeds, speed: float) -> tuple[float, float]:
        """Of a run before, timed for the scale alone, and after, by the ratio."""
        target = self._options.target
        session = open_session(whole, threads=target.threads, providers=target.execution_providers)
        timings = time_interleaved([lambda: session.run(feeds)], seconds=_SCALE_SECONDS)
        before = 1e3 * float(np.median(timings.runs[0]))
        return before, before / speed

    def _repair(self, candidate: Candidate) -> None:
        report, options = self._report, self._options
        if self._data.synthesized:
            if options.repair:
                report.notes.append(
                    "nothing was repaired: give data like that of the application (--calibration)"
                )
            return
        if not options.repair:
            return
        report.samples = len(self._fitting)
        with timed(report.seconds, "repair"):
            report.repairs = repair(
                self._model,
                candidate.model,
                candidate.kept,
                self._data,
                self._fitting,
                max_memory=self._max_memory,
            )

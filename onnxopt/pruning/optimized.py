"""Pruning, optimizing and quantizing in one call, in the order that works, with one report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import onnx_ir as ir

from onnxopt.calibration.data import open_data
from onnxopt.calibration.measuring import HELD_OUT, overlap_notes, reference_on
from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.core.pipeline import Observer
from onnxopt.core.report import Report
from onnxopt.core.timing import timed
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import check_target, save_model
from onnxopt.optimizing import optimize
from onnxopt.optimizing_notes import size_of
from onnxopt.optimizing_run import PathLike, Result
from onnxopt.pruning.error_limit import require_error
from onnxopt.pruning.goals import parse_goal
from onnxopt.pruning.running import prune
from onnxopt.runtime.loadable import opens
from onnxopt.runtime.parity.deviation import Deviation
from onnxopt.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.pruning.report import PruningReport

# Options of `prune` that say how data is read.
_READING = ("input_shapes", "preprocess", "tokenizer")


def optimize_and_prune(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None,
    preparation: Mapping[str, Any],
    *,
    goal: str | Mapping[str, Any],
    quantize: Literal["int8", "int4", "fp16", "bf16"] | None,
    calibration: Any,
    max_error: float | None,
    target: Target,
    external_data: bool | None,
    observers: Sequence[Observer],
) -> Result:
    """What `optimize` does with `prune` set.

    The pruned model is what is optimized, and quantized where that is asked for: parity, and the
    limits of quantizing, are about it. What all steps cost together is measured against the
    original, on samples that nothing was fitted on, before anything is written.

    Args:
        model: A path, or a model that is left as it is.
        output: Where to write the result.
        preparation: Options of `optimize` for the pruned model.
        goal: Options of `prune`, or their text.
        quantize: As for `optimize`.
        calibration: Data for pruning and quantizing.
        max_error: As for `optimize`: of quantizing alone.
        target: Where the result will run.
        external_data: As for `optimize`.
        observers: Told about passes.

    Raises:
        ParityError: The error is over the `max_error` of the goal; nothing was written.
        OnnxOptError: As all steps raise it.
    """
    for name in ("passes", "standard_operators"):
        if preparation[name]:
            raise InvalidInputError(
                f"--prune prepares the model by passes of its own: --{name.replace('_', '-')} is "
                "not for it; prune first, then optimize the result"
            )
    choices = parse_goal(goal)
    if isinstance(calibration, Iterator):  # which is read in every step
        calibration = list(calibration)
    original = load_model(model) if isinstance(model, (str, os.PathLike)) else accepted_model(model)
    if output is not None:
        check_target(original, output)
    whole = original.clone()
    shapes = preparation["input_shapes"]
    if shapes:
        fix_input_shapes(whole, shapes)
    # By its path errors name it.
    given = whole if shapes else model
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    try:
        pruned = prune(
            given, calibration=calibration, target=target, observers=observers, **choices
        )
    except ParityError as over:
        part = cast("PruningReport", over.report)
        failed = Report(source=source, before=size_of(original), pruning=part, given_up=True)
        raise ParityError(str(over), failed) from over
    options = {**preparation, "input_shapes": None, "target": target, "observers": observers}
    if quantize is not None:
        options |= {"quantize": quantize, "calibration": calibration, "max_error": max_error}
    result = optimize(pruned.model, None, **options)
    report = result.report
    report.source, report.pruning, report.before = source, pruned.report, size_of(original)
    with timed(report.seconds, "compare"):
        reading = {name: choices[name] for name in _READING if name in choices}
        # All of it: what `samples` takes of the first three quarters lies in these.
        data = open_data(calibration, whole, **reading)
        fitting, measuring = data.split(HELD_OUT)
        reference = reference_on(whole, data, measuring, target.execution_providers)
        error = reference.deviation(result.model)
    overlap = overlap_notes(data, fitting, measuring, "fitted")
    kind = "synthesized " if data.synthesized else "" if overlap else "held-out "
    report.notes += [_said(error, f"{len(reference.sets)} {kind}input sets"), *overlap]
    try:
        require_error(error, choices.get("max_error"), "all steps together", report)
    except ParityError:
        report.given_up = True
        raise
    if output is not None:
        verify = opens("the result", target.execution_providers)
        with timed(report.seconds, "save"):
            save_model(result.model, output, external_data=external_data, verify=verify)
        report.output = os.fspath(output)
        if report.quantization is not None:
            report.quantization.output = report.output
    return result


def _said(error: Deviation, sets: str) -> str:
    broken = f"; {error.broken}" if error.broken else ""
    return (
        f"against the original, all steps together: error {error.rms:.2%} (root mean square), "
        f"cosine {error.cosine:.4f} on {sets}{broken}"
    )

"""`optimize`: load, rewrite, prove, save. What the command line runs, as one function."""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.core.passes import Pass
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat, count_nodes
from onnxopt.core.report import ModelSize, Report
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.cost import model_tensors
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.known_operators import unknown_operators
from onnxopt.graph.saving import check_target, save_model
from onnxopt.presets import cleanup
from onnxopt.targets import Target, detect_target

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.runtime.inputs import InputPlan

Guard = Literal["off", "parity"]
PathLike = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Result:
    """An optimized model and the record of how it came about.

    Attributes:
        model: The optimized model.
        report: What each pass did and refused, sizes, seconds, parity.
    """

    model: ir.Model
    report: Report


def optimize(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    passes: str | Sequence[AnyPass | Repeat] | None = None,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Any = None,
    target: Target | None = None,
    guard: Guard = "parity",
    external_data: bool | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Optimizes a model, checks that it still computes the same, and saves it.

    Args:
        model: Path of an ONNX file, or a model in memory (onnx_ir or onnx protobuf), which is left
            as it is.
        output: Where to write the result; None to only return it. May be the input's own path.
        passes: Passes as text (`"fold-constants,remove-unused"`) or as objects; by default the
            preset that cleans up and fuses into standard operators.
        opset: Raise the default domain to this version first.
        input_shapes: Input name to the shape to fix it to.
        inputs: Data for the parity run, by input name or as the path of a .npz file; synthesized
            by default.
        target: "cpu" or "cuda", where the result will run; by default what the installed ONNX
            Runtime is built for.
        guard: "parity" runs both models in ONNX Runtime and raises if they differ, "off" does not.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told before and after every pass.

    Returns:
        The optimized model and the report.

    Raises:
        OnnxOptError: The model cannot be read, a pass failed or the result cannot be written.
        ParityError: The result differs from the original; nothing was written. Its `report`
            attribute holds the report.
    """
    if guard not in ("off", "parity"):
        raise InvalidInputError(f"guard is 'off' or 'parity', not {guard!r}")
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    report = Report(source=source)
    if target not in (None, "cpu", "cuda"):
        raise InvalidInputError(f"target is 'cpu' or 'cuda', not {target!r}")
    if guard == "off" and inputs is not None:
        raise InvalidInputError("inputs are for the parity run, which guard 'off' leaves out")
    chosen = _passes(passes, opset, target or detect_target())
    pipeline = Pipeline(chosen, observers=observers)
    with _patient_garbage_collector():
        return _run(
            model, output, pipeline, report, input_shapes, inputs, guard == "parity", external_data
        )


def _run(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None,
    pipeline: Pipeline,
    report: Report,
    input_shapes: Mapping[str, Sequence[int]] | None,
    inputs: Any,
    check: bool,
    external_data: bool | None,
) -> Result:
    with _phase(report, "load"):
        original, work = _original_and_copy(model)
    # What would make all the work futile comes before it.
    if output is not None:
        check_target(work, output)
    if check:
        from onnxopt.runtime.session import require_runtime

        require_runtime()
    if input_shapes:
        fix_input_shapes(work, input_shapes)
    plan = _plan_inputs(work, inputs) if check else None
    report.before = _size(work)
    report.notes += _operator_notes(work)
    with _phase(report, "passes"):
        report.records = pipeline.call(work).records
    report.after = _size(work)

    def verify(saved: Path | None = None) -> None:
        if plan is not None:
            _check_parity(original, work if saved is None else saved, plan, report)
            if report.parity and report.parity["status"] == "not-run":
                _blame_given(original, report, bool(input_shapes), inputs is not None)

    if output is None:
        verify()
    else:
        # The file itself is run, before it takes the target's place: that needs no second copy of
        # the weights, and what was proven is what was written.
        with _phase(report, "save", without=("parity",)):
            save_model(work, output, external_data=external_data, verify=verify)
        report.output = os.fspath(output)
    return Result(work, report)


def _original_and_copy(
    model: PathLike | ir.Model | ModelProto,
) -> tuple[PathLike | ir.Model, ir.Model]:
    """What stays untouched, to compare with, and a model to work on; they share their weights."""
    if isinstance(model, (str, os.PathLike)):
        from onnxopt.graph.loading import load_model

        return model, load_model(model)
    original = accepted_model(model)
    return original, original.clone()


def _passes(
    passes: str | Sequence[AnyPass | Repeat] | None, opset: int | None, target: Target
) -> list[AnyPass | Repeat]:
    from onnxopt.passes import PASSES, parse_passes

    chosen: list[AnyPass | Repeat]
    if passes is None:
        chosen = list(cleanup(target))
    elif isinstance(passes, str):
        chosen = list(parse_passes(passes, PASSES))
    else:
        chosen = list(passes)
    if opset is not None:
        from onnxopt.passes.cleanup.opset import ConvertOpset

        chosen.insert(0, ConvertOpset(version=opset))
    return chosen


def _plan_inputs(model: ir.Model, inputs: Any) -> InputPlan:
    from onnxopt.runtime.inputs import plan_inputs

    return plan_inputs(model, inputs)


def _check_parity(
    original: PathLike | ir.Model, result: ir.Model | Path, plan: InputPlan, report: Report
) -> None:
    """Fills `report.parity`; raises if the result, in memory or as a file, is not at parity."""
    from onnxopt.runtime.parity import check_parity
    from onnxopt.runtime.verify_saved import verify_saved

    with _phase(report, "parity"):
        source = original if isinstance(original, ir.Model) else Path(original)
        found = (
            check_parity(source, result, input_sets=plan)
            if isinstance(result, ir.Model)
            else verify_saved(result, source, plan)
        )
    report.parity = {**found.to_dict(), "summary": found.summary()}
    report.notes += found.notes
    if found.status == "failed":
        raise ParityError(f"the result is not at parity: {found.reasons[0]}", report)


def _blame_given(original: PathLike | ir.Model, report: Report, shapes: bool, inputs: bool) -> None:
    """Raises if a model does not run only because of the shapes or inputs that the user gave."""
    from onnxopt.runtime.parity import check_parity

    if not (shapes or inputs):
        return
    source = original if isinstance(original, ir.Model) else Path(original)
    if check_parity(source, source).status == "passed":
        given = "input shapes" * shapes + " and " * (shapes and inputs) + "inputs" * inputs
        reason = report.parity["reasons"][0] if report.parity else ""
        raise InvalidInputError(f"the model does not run with the given {given}: {reason}")


@contextmanager
def _phase(report: Report, name: str, *, without: Sequence[str] = ()) -> Iterator[None]:
    """Adds the time of the block, less that of phases inside it, to the report."""
    start = time.perf_counter()
    inner = sum(report.seconds.get(other, 0.0) for other in without)
    yield
    inner = sum(report.seconds.get(other, 0.0) for other in without) - inner
    report.seconds[name] = report.seconds.get(name, 0.0) + time.perf_counter() - start - inner


@contextmanager
def _patient_garbage_collector() -> Iterator[None]:
    """Looks for cyclic garbage rarely.

    A graph is hundreds of thousands of small objects that live until the end: walking them again
    and again costs a fifth of a run, and more than linearly in the size of the graph.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _size(model: ir.Model) -> ModelSize:
    tensors = {id(tensor): tensor.nbytes for tensor in model_tensors(model).values()}
    return ModelSize(nodes=count_nodes(model), weight_bytes=sum(tensors.values()))


def _operator_notes(model: ir.Model) -> list[str]:
    return [
        f"operator {name} is not known here, left as it is ({count} x)"
        for name, count in unknown_operators(model).items()
    ]


__all__ = ["Guard", "Pass", "Result", "optimize"]

"""`optimize`: load, rewrite, prove, save. What the command line runs, as one function."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.core.passes import Pass
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat, count_nodes
from onnxopt.core.report import ModelSize, Report
from onnxopt.graph.cost import model_tensors
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.known_operators import unknown_operators
from onnxopt.presets import cleanup
from onnxopt.targets import Target, as_target

if TYPE_CHECKING:
    from onnx import ModelProto

Guard = Literal["off", "parity", "full"]
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
    target: Target | str | None = None,
    guard: Guard = "parity",
    guard_budget: float = 60.0,
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
        inputs: Data for the parity run: arrays by input name, a .npz file, a folder of .npz or .npy
            files, or a function that yields arrays by name; synthesized by default.
        target: Where the result will run: a `Target`, or text such as "cuda" or
            "cpu:threads=4,isa=avx2"; by default what the installed ONNX Runtime is built for.
        guard: "parity" runs both models in ONNX Runtime and undoes the rewrites that make them
            differ; "full" does so after every group of passes, times the group as well and undoes
            what is proven slower; "off" does neither.
        guard_budget: Seconds that the guard may spend on the search for what to undo, and in mode
            "full" on all of its work.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told before and after every pass.

    Returns:
        The optimized model and the report.

    Raises:
        OnnxOptError: The model cannot be read, a pass failed without a guard, or the result cannot
            be written.
        ParityError: The result differs from the original, and undoing passes does not help; nothing
            was written. Its `report` attribute holds the report.
    """
    if guard not in get_args(Guard):
        raise InvalidInputError(f"guard is 'off', 'parity' or 'full', not {guard!r}")
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    aim = as_target(target)
    report = Report(source=source, target=str(aim))
    chosen = _passes(passes, opset, aim)
    with _phase(report, "load"):
        original, work = _original_and_copy(model)
    if input_shapes:
        fix_input_shapes(work, input_shapes)
    report.before = _size(work)
    report.notes += _operator_notes(work)
    feeds = None
    if guard == "off":
        with _phase(report, "passes"):
            report.records = Pipeline(chosen, observers=observers).call(work).records
    else:
        from onnxopt.runtime.guarded_run import run_guarded

        feeds = run_guarded(
            work,
            chosen,
            original=original if isinstance(original, ir.Model) else Path(original),
            fresh=lambda: _fresh(original, input_shapes),
            inputs=inputs,
            target=aim,
            mode=guard,
            budget=guard_budget,
            observers=observers,
            report=report,
        )
    report.after = _size(work)
    if report.exit_code:
        assert report.parity is not None
        reason = report.parity["reasons"][0]
        raise ParityError(f"the result is not at parity: {reason}", report)
    if output is not None:
        _save(work, Path(output), external_data, feeds, report)
    return Result(work, report)


def _original_and_copy(
    model: PathLike | ir.Model | ModelProto,
) -> tuple[PathLike | ir.Model, ir.Model]:
    """What stays untouched, to compare with, and a model to work on; they share their weights."""
    if isinstance(model, ir.Model):
        return model, model.clone()
    if hasattr(model, "SerializeToString"):  # an onnx.ModelProto, without importing onnx for it
        from onnxopt.graph.conversion import model_from_proto

        given = cast("ModelProto", model)
        copy = type(given)()
        copy.CopyFrom(given)
        work = model_from_proto(copy)
        return work.clone(), work
    from onnxopt.graph.loading import load_model

    path = cast(PathLike, model)
    return path, load_model(path)


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


def _fresh(
    original: PathLike | ir.Model, input_shapes: Mapping[str, Sequence[int]] | None
) -> ir.Model:
    """The input once more, as it was before any pass."""
    if isinstance(original, ir.Model):
        model = original.clone()
    else:
        from onnxopt.graph.loading import load_model

        model = load_model(original)
    if input_shapes:
        fix_input_shapes(model, input_shapes)
    return model


def _save(
    model: ir.Model,
    output: Path,
    external_data: bool | None,
    feeds: Mapping[str, Any] | None,
    report: Report,
) -> None:
    from onnxopt.graph.saving import save_model

    with _phase(report, "save"):
        save_model(model, output, external_data=external_data)
    report.output = str(output)
    if feeds is not None:
        from onnxopt.runtime.verify_saved import verify_saved

        with _phase(report, "verify"):
            verify_saved(output, feeds)


@contextmanager
def _phase(report: Report, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    report.seconds[name] = report.seconds.get(name, 0.0) + time.perf_counter() - start


def _size(model: ir.Model) -> ModelSize:
    tensors = {id(tensor): tensor.nbytes for tensor in model_tensors(model).values()}
    return ModelSize(nodes=count_nodes(model), weight_bytes=sum(tensors.values()))


def _operator_notes(model: ir.Model) -> list[str]:
    return [
        f"operator {name} is not known here, left as it is ({count} x)"
        for name, count in unknown_operators(model).items()
    ]


__all__ = ["Guard", "Pass", "Result", "optimize"]

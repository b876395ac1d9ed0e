"""`convert`: a float32 model in float16 or bfloat16, with what cannot be half left in float32."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.core.passes import PassResult, Refusal
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import check_target, save_model
from onnxopt.passes.cleanup import ConvertOpset, InlineFunctions
from onnxopt.passes.precision.emulation import emulate_half
from onnxopt.passes.precision.half import ConvertToHalf
from onnxopt.passes.precision.half_weights import LARGEST_FLOAT16, LEAST_FLOAT16

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.calibration.data import CalibrationData

Precision = Literal["fp16", "bf16"]
PathLike = str | os.PathLike[str]

# What is usual for these types (`runtime.parity.conversion`).
_TOLERANCE = {"fp16": 0.01, "bf16": 0.05}
# Values seen on a few inputs grow on others.
_MARGIN = 2.0
# From here on most operators take bfloat16.
_BFLOAT16_OPSET = 22
_TRIES = 48


@dataclasses.dataclass(kw_only=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        to: "fp16" or "bf16".
        rewrites: Nodes that compute in it, and casts.
        kept: Nodes in float32 and why.
        overflowing: Values beyond the range, with their largest magnitude.
        searched: Nodes that stay in float32 because the outputs need it.
        error: Largest relative error of an output; None if it was not measured.
        tolerance: What it may be.
        notes: What the user should read.
        output: Where the model was written.
    """

    to: str
    rewrites: Counter[str] = dataclasses.field(default_factory=Counter)
    kept: list[Refusal] = dataclasses.field(default_factory=list)
    overflowing: dict[str, float] = dataclasses.field(default_factory=dict)
    searched: list[str] = dataclasses.field(default_factory=list)
    error: float | None = None
    tolerance: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)
    output: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        found = {**vars(self), "rewrites": dict(self.rewrites)}
        return found | {"kept": [dataclasses.asdict(refusal) for refusal in self.kept]}

    def to_text(self, *, verbose: bool = False) -> str:
        """The report for people.

        Args:
            verbose: Name every node that stays in float32.
        """
        counts = ", ".join(f"{count} {name}s" for name, count in self.rewrites.items())
        lines = [f"{self.to}: {counts or 'nothing to convert'}"]
        reasons = Counter(refusal.reason for refusal in self.kept)
        for reason, count in reasons.most_common():
            names = [r.node for r in self.kept if r.reason == reason]
            shown = ", ".join(names if verbose else names[:3])
            lines.append(f"  float32: {count} x {reason} ({shown})")
        for name, size in self.overflowing.items():
            lines.append(f"  value {name!r} reaches {size:.3g}")
        if self.searched:
            named = self.searched if verbose else self.searched[:5]
            more = len(self.searched) - len(named)
            text = ", ".join(named) + (f" and {more} more" if more else "")
            lines.append(f"  the outputs need float32 in: {text}")
        if self.error is not None:
            lines.append(f"error {self.error:.2e} of the outputs ({self.tolerance:.0e} allowed)")
        lines += [f"note: {note}" for note in self.notes]
        if self.output:
            lines.append(f"wrote {self.output}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Converted:
    """The model and the report."""

    model: ir.Model
    report: ConversionReport


def convert(
    model: PathLike | ir.Model | ModelProto,
    output: PathLike | None = None,
    *,
    to: Precision = "fp16",
    io_types: bool = False,
    storage: bool = False,
    keep: Sequence[str] = (),
    calibration: Any = None,
    samples: int | None = 16,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    tolerance: float | None = None,
    check: bool = True,
    budget: float = 60.0,
    external_data: bool | None = None,
) -> Converted:
    """Converts a model to half precision.

    Args:
        model: Path of an ONNX file, or a model in memory, which is left as it is.
        output: Where to write the result; None to only return it.
        to: "fp16" or "bf16".
        io_types: Inputs and outputs change their type as well.
        storage: Only store weights in it; they are cast back when the model is loaded.
        keep: Names or patterns of nodes that stay in float32.
        calibration: Inputs to measure ranges and errors with; synthesized by default.
        samples: Use no more input sets than this.
        input_shapes: Shapes of inputs that are synthesized.
        tolerance: Largest relative error (root mean square) of an output: 0.01 for fp16 and 0.05
            for bf16 by default.
        check: Measure ranges and errors with ONNX Runtime.
        budget: Seconds that the search for what has to stay in float32 may take.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.

    Raises:
        ParityError: The result is not within the tolerance; nothing was written.
        OnnxOptError: The model cannot be read, run or written.
    """
    if to not in _TOLERANCE:
        raise InvalidInputError(f"convert to fp16 or bf16, not {to!r}")
    original = load_model(model) if isinstance(model, (str, os.PathLike)) else accepted_model(model)
    if output is not None:
        check_target(original, output)
    report = ConversionReport(to=to, tolerance=tolerance or _TOLERANCE[to])
    base = original.clone()
    InlineFunctions()(base)
    if to == "bf16" and not storage:
        _raise_opset(base, report)
    options = ConvertToHalf(
        to="float16" if to == "fp16" else "bfloat16",
        keep=tuple(keep),
        io_types=io_types,
        storage=storage,
    )
    if check:
        work, result = _checked(base, options, calibration, samples, input_shapes, report, budget)
    else:
        report.notes.append("neither ranges nor errors were measured")
        work, result = _converted(base, options, ())
    report.rewrites, report.kept = result.rewrites, result.refusals
    if output is not None:
        save_model(work, output, external_data=external_data)
        report.output = os.fspath(output)
    return Converted(work, report)


def _raise_opset(model: ir.Model, report: ConversionReport) -> None:
    if model.opset_imports.get("", 1) >= _BFLOAT16_OPSET:
        return
    try:
        ConvertOpset(version=_BFLOAT16_OPSET)(model)
    except InvalidInputError as error:
        report.notes.append(f"fewer operators take bfloat16 at this opset: {error}")


def _converted(
    base: ir.Model, options: ConvertToHalf, keep: Sequence[str]
) -> tuple[ir.Model, PassResult]:
    work = base.clone()
    found = dataclasses.replace(options, keep=(*options.keep, *keep))(work)
    assert isinstance(found, PassResult)
    return work, found


def _checked(
    base: ir.Model,
    options: ConvertToHalf,
    calibration: Any,
    samples: int | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
    report: ConversionReport,
    budget: float,
) -> tuple[ir.Model, PassResult]:
    """Converts what fits the type, and then less of it until the outputs are good enough."""
    from onnxopt.calibration.data import open_data
    from onnxopt.runtime.half_search import CannotRunError, error_of, outputs_of

    found = open_data(calibration, base, limit=samples, input_shapes=input_shapes)
    report.notes += found.notes
    if found.synthesized:
        report.notes.append("ranges were measured on synthesized inputs; give data to be sure")
    feeds = [one.feeds for one in found][: samples or None]
    if options.to == "float16" and not options.storage:
        report.overflowing = _overflowing(base, found)
    try:
        wanted = outputs_of(base, feeds)
    except CannotRunError as error:
        raise InvalidInputError(
            f"the model does not run on the data: {error.reason}; give inputs or shapes that it "
            "takes, or do not check"
        ) from error
    large = tuple(report.overflowing)
    smallest = LEAST_FLOAT16 if options.to == "float16" else 0.0

    def error_with(keep: Sequence[str], enough: float = math.inf) -> float:
        emulated = base.clone()
        chosen = dataclasses.replace(options, keep=(*options.keep, *large, *keep))
        if options.storage:
            chosen(emulated)
        else:
            emulate_half(emulated, chosen)
        return error_of(emulated, feeds, wanted, enough=enough, smallest=smallest)

    report.error = error_with(())
    if report.error > report.tolerance and not options.storage:
        _search(base, error_with, report, budget)
    work, result = _converted(base, options, (*large, *report.searched))
    try:
        outputs_of(work, feeds[:1])
    except CannotRunError as error:
        if options.to == "float16":
            raise
        report.notes.append(f"the CPU has no kernels for all of it: {error.reason}")
    if report.error > report.tolerance:
        raise ParityError(
            f"in {report.to} the outputs are off by {report.error:.2g}, more than the tolerance "
            f"{report.tolerance:.2g}; nothing was written",
            report,
        )
    return work, result


def _search(
    base: ir.Model,
    error_with: Callable[[Sequence[str], float], float],
    report: ConversionReport,
    budget: float,
) -> None:
    """Finds nodes that meet the tolerance if they stay in float32, and few of them.

    Raises:
        ParityError: Not even all of them do.
    """
    from onnxopt.runtime.half_search import find_float32

    errors: dict[tuple[str, ...], float] = {}

    def passes(keep: Sequence[str]) -> bool:
        key = tuple(keep)
        if key not in errors:
            errors[key] = error_with(keep, report.tolerance)
        return errors[key] <= report.tolerance

    names = [n.outputs[0].name or "" for n in base.graph if n.outputs]
    if not passes(names):
        error = errors[tuple(names)]
        raise ParityError(
            f"in {report.to} the outputs are off by {error:.2g}, more than the tolerance "
            f"{report.tolerance:.2g}, even with every node in float32; nothing was written",
            report,
        )
    found, complete = find_float32(names, passes, tries=_TRIES, seconds=budget)
    if not complete:
        report.notes.append("the search ended with its budget: fewer nodes in float32 might do")
    passes(found)
    report.searched, report.error = found, errors[tuple(found)]


def _overflowing(model: ir.Model, data: CalibrationData) -> dict[str, float]:
    """Values beyond the range of float16, and near it."""
    from onnxopt.calibration.magnitudes import largest_magnitudes

    names = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.name and node.op_type != "Constant"
    ]
    magnitudes = largest_magnitudes(model, names, data)
    return {n: size for n, size in magnitudes.items() if size * _MARGIN > LARGEST_FLOAT16}

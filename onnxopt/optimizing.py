"""`optimize`: load, rewrite, prove, save. What the command line runs, as one function."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError, PassFailedError
from onnxopt.core.garbage import patient_garbage_collector
from onnxopt.core.passes import Pass
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat
from onnxopt.core.report import Report
from onnxopt.core.timing import timed
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.mapped import release_weights
from onnxopt.graph.saving import check_target, save_model
from onnxopt.optimizing_notes import operator_notes, size_of
from onnxopt.optimizing_parity import blame_given, prove, provider_notes
from onnxopt.presets import chosen_passes
from onnxopt.targets import Target, as_target

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.runtime.proving import Prover

Guard = Literal["off", "parity", "full"]
PathLike = str | os.PathLike[str]

# A model that runs longer than this hangs, as far as anybody who waits can tell.
PARITY_TIMEOUT = 600.0


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
    standard_operators: bool = False,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Any = None,
    target: Target | str | None = None,
    guard: Guard = "parity",
    guard_budget: float = 60.0,
    parity_timeout: float = PARITY_TIMEOUT,
    external_data: bool | None = None,
    observers: Sequence[Observer] = (),
    isolated: bool = False,
    quantize: Literal["int8", "int4", "fp16", "bf16"] | None = None,
    calibration: Any = None,
) -> Result:
    """Optimizes a model, checks that it still computes the same, and saves it.

    Args:
        model: Path of an ONNX file, or a model in memory (onnx_ir or onnx protobuf), which is left
            as it is.
        output: Where to write the result; None to only return it. May be the input's own path.
        passes: Passes as text (`"fold-constants,remove-unused"`) or as objects; by default the
            preset that cleans up and uses the operators that are fast on the target.
        standard_operators: By default the target's own fused operators (domain com.microsoft) are
            used where they pay; True keeps to standard operators, which run everywhere.
        opset: Raise the default domain to this version first.
        input_shapes: Input name to the shape to fix it to.
        inputs: Data for the parity run, by input name or as the path of a .npz file; synthesized
            by default.
        target: Where the result will run, as a `Target` or as text ("cpu", "cuda",
            "cpu:threads=4,isa=avx2"); by default what the installed ONNX Runtime is built for.
        guard: "parity" runs both models in ONNX Runtime; if they differ, what did it is found and
            undone. "full" also times groups of passes and undoes what is slower. "off" does
            neither.
        guard_budget: Seconds that undoing and timing may take.
        parity_timeout: Seconds after which an isolated parity check is stopped; the model then
            counts as one that cannot be run.
        external_data: Keep weights in a separate file; by default only over protobuf's 2 GB.
        observers: Told before and after every pass.
        isolated: Run the parity check of files, and onnx's version converter, in a child process:
            a crash of native code is reported and does not end this process. Costs the start of
            one or two Python processes.
        quantize: "int8" quantizes the optimized model where that is faster and close enough, as
            `onnxopt.quantize` does; "int4" stores weights as `onnxopt.quantize_weights`, "fp16" and
            "bf16" convert as `onnxopt.convert`. The report is this one's `quantization`.
        calibration: Data for that.

    Returns:
        The optimized model and the report.

    Raises:
        OnnxOptError: The model cannot be read, a pass failed or the result cannot be written.
        ParityError: The result differs from the original; nothing was written. Its `report`
            attribute holds the report.
    """
    if guard not in get_args(Guard):
        raise InvalidInputError(f"guard is 'off', 'parity' or 'full', not {guard!r}")
    if guard == "off" and inputs is not None:
        raise InvalidInputError("inputs are for the parity run, which guard 'off' leaves out")
    aim = as_target(target)
    if calibration is not None and quantize is None:
        raise InvalidInputError("calibration data is for quantizing, which is not asked for")
    if quantize is not None:
        from onnxopt.quantizing.optimized import optimize_and_quantize

        options: dict[str, Any] = {
            "passes": passes,
            "standard_operators": standard_operators,
            "opset": opset,
            "input_shapes": input_shapes,
            "inputs": inputs,
            "guard": guard,
            "guard_budget": guard_budget,
        }
        return optimize_and_quantize(
            model,
            output,
            options,
            to=quantize,
            calibration=calibration,
            target=aim,
            external_data=external_data,
            observers=observers,
        )
    if isolated and opset is not None and isinstance(model, (str, os.PathLike)):
        from onnxopt.runtime.opset_trial import try_opset

        try_opset(model, opset)
    run = _Run(
        model=model,
        output=output,
        passes=chosen_passes(passes, opset, aim, standard=standard_operators),
        target=aim,
        input_shapes=input_shapes,
        inputs=inputs,
        external_data=external_data,
        observers=observers,
        isolated=isolated,
        parity_timeout=parity_timeout,
    )
    with patient_garbage_collector():
        if guard == "off":
            return run.plain(check=False)
        if guard == "parity":
            try:
                return run.plain(check=True)
            except (ParityError, PassFailedError) as error:
                if isinstance(error, ParityError) and error.crashed:
                    raise
                # Only now is it worth its cost to find out which rewrite it was.
                return run.guarded("parity", guard_budget)
        return run.guarded("full", guard_budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """The arguments of one `optimize`, which may be run twice: as it is, then under the guard."""

    model: PathLike | ir.Model | ModelProto
    output: PathLike | None
    passes: list[AnyPass | Repeat]
    target: Target
    input_shapes: Mapping[str, Sequence[int]] | None
    inputs: Any
    external_data: bool | None
    observers: Sequence[Observer]
    isolated: bool
    parity_timeout: float

    def plain(self, *, check: bool) -> Result:
        """All passes, then one parity run of the file that is about to be put in place."""
        report, original, work = self._start(check=check)
        with ExitStack() as stack:
            prover = self._prover(original, work, stack, self.isolated) if check else None
            with timed(report.seconds, "passes"):
                pipeline = Pipeline(self.passes, observers=self.observers)
                report.records = pipeline.call(work).records
            return self._finish(report, original, work, prover)

    def guarded(self, mode: Literal["parity", "full"], budget: float) -> Result:
        """The passes as transactions; what breaks parity, or is proven slower, is undone."""
        from onnxopt.runtime.guarded_run import run_guarded

        report, original, work = self._start(check=True)
        # What ONNX Runtime crashes on ended the search already, or there was no crash before it.
        prover = None if self.output is None else self._prover(original, work, ExitStack(), False)
        run_guarded(
            work,
            self.passes,
            original=original if isinstance(original, ir.Model) else Path(original),
            fresh=lambda: self._start(check=False)[2],
            inputs=self.inputs,
            target=self.target,
            mode=mode,
            budget=budget,
            observers=self.observers,
            report=report,
        )
        if report.exit_code:
            assert report.parity is not None
            reason = report.parity["reasons"][0]
            raise ParityError(f"the result is not at parity: {reason}", report)
        return self._finish(report, original, work, prover)

    def _prover(
        self, original: PathLike | ir.Model, work: ir.Model, stack: ExitStack, isolated: bool
    ) -> Prover:
        """What compares results with the original, on inputs planned from the fixed shapes."""
        from onnxopt.runtime.inputs import plan_inputs
        from onnxopt.runtime.proving import Prover

        source = original if isinstance(original, ir.Model) else Path(original)
        plan = plan_inputs(work, self.inputs)
        isolated = isolated and self.output is not None
        return stack.enter_context(
            closing(Prover(source, plan, isolated=isolated, seconds=self.parity_timeout))
        )

    def _start(self, *, check: bool) -> tuple[Report, PathLike | ir.Model, ir.Model]:
        """A report, the untouched original and a model to work on."""
        source = os.fspath(self.model) if isinstance(self.model, (str, os.PathLike)) else ""
        report = Report(source=source, target=str(self.target))
        with timed(report.seconds, "load"):
            original, work = _original_and_copy(self.model)
        # What would make all the work futile comes before it.
        if self.output is not None:
            check_target(work, self.output)
        if check:
            from onnxopt.runtime.library import require_runtime

            require_runtime()
            report.notes += provider_notes(self.target)
        if self.input_shapes:
            fix_input_shapes(work, self.input_shapes)
        report.before = size_of(work)
        report.notes += operator_notes(work)
        return report, original, work

    def _finish(
        self,
        report: Report,
        original: PathLike | ir.Model,
        work: ir.Model,
        prover: Prover | None,
    ) -> Result:
        """Checks and saves."""
        report.after = size_of(work)

        def verify(saved: Path | None = None) -> None:
            if prover is None:
                return
            for observer in self.observers:
                observer.working("parity run")
            # What was read of the weights makes room for ONNX Runtime's own copies.
            release_weights(work)
            prove(prover, work if saved is None else saved, report)
            if report.parity and report.parity["status"] == "not-run":
                blame_given(original, report, bool(self.input_shapes), self.inputs is not None)

        if self.output is None:
            verify()
        else:
            # The file itself is run, before it takes the target's place: that needs no second copy
            # of the weights, and what was proven is what was written.
            with timed(report.seconds, "save", without=("parity",)):
                save_model(work, self.output, external_data=self.external_data, verify=verify)
            report.output = os.fspath(self.output)
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


__all__ = ["Guard", "Pass", "Result", "optimize"]

"""One run of `optimize`: load, rewrite, prove, save."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from onnxopt.core.errors import ParityError
from onnxopt.core.pipeline import AnyPass, Observer, Pipeline, Repeat
from onnxopt.core.report import Report
from onnxopt.core.timing import timed
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.cost import weight_bytes
from onnxopt.graph.input_shapes import fix_input_shapes
from onnxopt.graph.mapped import release_weights
from onnxopt.graph.saving import check_target, save_model
from onnxopt.optimizing_notes import operator_notes, size_of
from onnxopt.optimizing_parity import blame_given, prove, provider_notes
from onnxopt.targets import Target

if TYPE_CHECKING:
    from onnx import ModelProto

    from onnxopt.runtime.parity.proving import Prover

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
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
        from onnxopt.runtime.guard.guarded_run import run_guarded

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
        from onnxopt.runtime.inputs.plan import plan_inputs
        from onnxopt.runtime.parity.proving import Prover

        source = original if isinstance(original, ir.Model) else Path(original)
        plan = plan_inputs(work, self.inputs)
        isolated = isolated and self.output is not None
        return stack.enter_context(
            closing(
                Prover(
                    source,
                    plan,
                    isolated=isolated,
                    seconds=self.parity_timeout,
                    weights=weight_bytes(work),
                )
            )
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

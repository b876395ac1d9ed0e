"""The parity run of `optimize`: its verdict goes into the report, or ends the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.core.report import Report
from onnxopt.core.timing import timed
from onnxopt.targets import Target

if TYPE_CHECKING:
    from onnxopt.runtime.parity.proving import Prover


def prove(prover: Prover, result: ir.Model | Path, report: Report) -> None:
    """Fills `report.parity`; raises if the result, in memory or as a file, is not at parity."""
    from onnxopt.runtime.parity.proving import CrashedError

    with timed(report.seconds, "parity"):
        try:
            found = prover.prove(result)
        except CrashedError as error:
            report.parity = {"status": "failed", "reasons": [str(error)], "summary": str(error)}
            message = f"the result is not at parity: {error}; leave passes out with --passes"
            raise ParityError(message, report, crashed=True) from error
    report.parity = {**found.to_dict(), "summary": found.summary()}
    report.notes += [note for note in found.notes if note not in report.notes]
    if found.status == "failed":
        raise ParityError(f"the result is not at parity: {found.reasons[0]}", report)


def blame_given(
    original: str | os.PathLike[str] | ir.Model, report: Report, shapes: bool, inputs: bool
) -> None:
    """Raises if a model does not run only because of the shapes or inputs that the user gave."""
    from onnxopt.runtime.parity.check import check_parity

    if not (shapes or inputs):
        return
    source = original if isinstance(original, ir.Model) else Path(original)
    if check_parity(source, source).status == "passed":
        given = "input shapes" * shapes + " and " * (shapes and inputs) + "inputs" * inputs
        reason = report.parity["reasons"][0] if report.parity else ""
        raise InvalidInputError(f"the model does not run with the given {given}: {reason}")


def provider_notes(target: Target) -> list[str]:
    """That the check does not run where the result will."""
    from onnxopt.runtime.library import load_runtime
    from onnxopt.runtime.providers import PROVIDERS

    wanted = PROVIDERS[target.provider][0]
    if wanted in load_runtime().get_available_providers():
        return []
    return [f"the installed ONNX Runtime has no {wanted}: parity was checked on the CPU"]

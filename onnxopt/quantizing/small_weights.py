"""Optimizing, and then 4-bit weights or half precision, in one call with one report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from onnxopt.calibration.data import open_data
from onnxopt.converting import ConversionReport, Converted, convert
from onnxopt.core.errors import ParityError
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import check_target
from onnxopt.optimizing import Result, optimize
from onnxopt.optimizing_notes import size_of
from onnxopt.runtime.half_search import CannotRunError, outputs_of, relative_error
from onnxopt.weight_only import WeightReport, WeightResult, quantize_weights

if TYPE_CHECKING:
    from onnx import ModelProto

Small = WeightReport | ConversionReport

SMALL_TYPES = ("int4", "fp16", "bf16")
_COMPARED = 2  # input sets


def optimize_and_shrink(
    model: str | os.PathLike[str] | ir.Model | ModelProto,
    output: str | os.PathLike[str] | None,
    preparation: Mapping[str, Any],
    *,
    to: str,
    calibration: Any = None,
    external_data: bool | None = None,
    max_error: float | None = None,
) -> Result:
    """What `optimize` does with `quantize` set to one of `SMALL_TYPES`.

    int4 stores weights by GPTQ where there is calibration data, else rounded with clipped ranges.
    The report says how far the outputs are from the float ones.

    Args:
        model: A path, or a model that is left as it is.
        output: Where to write the result.
        preparation: Options of `optimize`.
        to: The type.
        calibration: Data for GPTQ, or to measure ranges with.
        external_data: As for `optimize`.
        max_error: Largest relative error (root mean square) of an output; for int4 there is no
            limit by default.

    Raises:
        ParityError: The error is larger; nothing was written.
        OnnxOptError: As `optimize`, `quantize_weights` and `convert` raise it.
    """
    if output is not None and isinstance(model, (str, os.PathLike)):
        check_target(load_model(model), output)
    result = optimize(model, None, **preparation)
    report = result.report
    small: WeightResult | Converted
    try:
        if to == "int4":
            small = quantize_weights(
                result.model,
                output,
                algorithm="mse" if calibration is None else "gptq",
                calibration=calibration,
                external_data=external_data,
                accept=lambda work, told: _compare(
                    result.model, work, calibration, told, max_error
                ),
            )
        else:
            assert to in ("fp16", "bf16")
            small = convert(
                result.model,
                output,
                to="fp16" if to == "fp16" else "bf16",
                calibration=calibration,
                tolerance=max_error,
                external_data=external_data,
            )
    except ParityError as over:
        report.quantization, report.given_up = cast("Small", over.report), True
        raise ParityError(str(over), report) from over
    report.quantization, work = small.report, small.model
    report.output = "" if output is None else os.fspath(output)
    report.after = size_of(work)
    return Result(work, report)


def _compare(
    model: ir.Model, small: ir.Model, data: Any, report: WeightReport, max_error: float | None
) -> None:
    """Notes how far the outputs of a model with quantized weights are from those of the float."""
    found = open_data(data, model, limit=_COMPARED)
    feeds = [one.feeds for one in found][:_COMPARED]
    kind = "synthesized" if found.synthesized else "given"
    try:
        error = relative_error(outputs_of(model, feeds), outputs_of(small, feeds))
    except CannotRunError as refused:
        if max_error is not None:
            raise ParityError(
                "the outputs cannot be compared with the float ones, so that their error has no "
                f"limit: {refused.reason}; nothing was written",
                report,
            ) from refused
        report.notes.append(f"the outputs were not compared with the float ones: {refused.reason}")
        return
    if max_error is not None and not error <= max_error:
        raise ParityError(
            f"with weights in 4 bits the outputs are off by {error:.2g}, more than the largest "
            f"error {max_error:.2g}; nothing was written",
            report,
        )
    limit = (
        "nothing limits that: judge it on your own data"
        if max_error is None
        else f"{max_error:.2%} allowed"
    )
    report.notes.append(
        f"outputs are {error:.2%} (root mean square) from the float ones on {len(feeds)} {kind} "
        f"input sets; {limit}"
    )

"""Optimizing and quantizing in one call, with one report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.pipeline import count_nodes
from onnxopt.core.report import ModelSize
from onnxopt.optimizing import Result
from onnxopt.quantizing.running import quantize
from onnxopt.quantizing.small_weights import SMALL_TYPES, optimize_and_shrink

if TYPE_CHECKING:
    from onnx import ModelProto


def optimize_and_quantize(
    model: str | os.PathLike[str] | ir.Model | ModelProto,
    output: str | os.PathLike[str] | None,
    preparation: Mapping[str, Any],
    *,
    to: str,
    **choices: Any,
) -> Result:
    """What `optimize` does with `quantize` set.

    Args:
        model: A path, or a model that is left as it is.
        output: Where to write the result.
        preparation: Options of `optimize` for the model before it is quantized.
        to: "int8", or one of `SMALL_TYPES`.
        choices: Options of `quantize`.

    Returns:
        The model, and the report of `optimize` with that of `quantize` in it.

    Raises:
        OnnxOptError: As both raise it.
    """
    if to in SMALL_TYPES:
        shared = {name: choices.pop(name) for name in ("calibration", "external_data", "max_error")}
        return optimize_and_shrink(model, output, {**preparation, **choices}, to=to, **shared)
    if to != "int8":
        raise InvalidInputError(f"quantize is int8, {', '.join(SMALL_TYPES)} or None, not {to!r}")
    found = quantize(model, output, preparation=preparation, **choices)
    report = found.report.preparation
    assert report is not None
    found.report.preparation = None
    report.quantization = found.report
    report.output = found.report.output
    report.after = ModelSize(nodes=count_nodes(found.model), weight_bytes=found.report.bytes_after)
    return Result(found.model, report)

"""Samples kept apart to measure with, and what a model gives on them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.deviation import Reference

# The most input sets that are kept apart.
HELD_OUT = 16
# ONNX Runtime lacks kernels of some operators of older opsets.
_OLDEST = 7


def overlap_notes(
    data: CalibrationData, used: Sequence[int], measuring: Sequence[int], verb: str
) -> list[str]:
    """What to say where the samples that are measured on were used before.

    Args:
        data: The samples.
        used: Indexes of those that something was worked out on.
        measuring: Of those that are measured on.
        verb: What they were used for, as "fitted".
    """
    if data.synthesized or not set(used) & set(measuring):
        return []
    return [f"too few samples to keep some apart: measured on those {verb} on"]


def reference_on(
    model: ir.Model,
    data: CalibrationData,
    measuring: Sequence[int],
    providers: Sequence[str],
    name: str = "the model",
) -> Reference:
    """The outputs of a model on the samples that are measured on, or on synthesized ones.

    Raises:
        InvalidInputError: It does not run on them.
    """
    sets = data.plan if data.synthesized else [data[index] for index in measuring]
    try:
        return Reference(model, sets, providers)
    except CannotRunError as error:
        raise cannot_run_on_data(model, error, name) from error


def cannot_run_on_data(model: ir.Model, error: CannotRunError, name: str) -> InvalidInputError:
    """The error to raise for a model that does not run on the data, with advice for old opsets."""
    opset = model.opset_imports.get("", _OLDEST)
    advice = f"; raise its opset {opset} first: onnxopt optimize IN --opset 17 -o OUT"
    advice = advice if opset < _OLDEST else ""
    return InvalidInputError(f"{name} does not run on the data: {error.reason}{advice}")

"""The inputs that forms are measured on, and the float model's outputs for them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.deviation import Reference
from onnxopt.runtime.library import CannotRunError

# What one run over all of them may take of the budget, and how many are measured on in any case.
_SHARE, _FEWEST = 0.04, 4
# The largest error of fewer says little about what comes later.
_ENOUGH = 16


def open_reference(
    model: ir.Model,
    data: CalibrationData,
    held_out: Sequence[int],
    options: QuantizeOptions,
    notes: list[str],
) -> Reference:
    """Runs the float model on what was not calibrated on, as much of it as the budget allows.

    Where that is little, on some of the rest as well: errors there can only add to the largest.

    Args:
        model: The float model.
        data: All of the data.
        held_out: Indexes of the input sets that were kept apart.
        options: The budget; a metric counts on nothing but the sets kept apart.
        notes: Told what was left out.

    Raises:
        InvalidInputError: The model does not run on the data.
    """
    providers = options.target.execution_providers
    try:
        if data.synthesized:
            return Reference(model, data.plan, providers)
        indexes = [*held_out]
        if not options.judged:
            rest = [index for index in range(len(data)) if index not in held_out]
            indexes += rest[: max(0, _ENOUGH - len(indexes))]
        first = Reference(model, [data[indexes[0]]], providers)
        affordable = int(options.budget * _SHARE / max(first.seconds, 1e-9))
        if affordable < len(indexes):
            indexes = indexes[: max(affordable, _FEWEST)]
            notes.append(f"runs take long: the error was measured on {len(indexes)} samples")
        return Reference(model, [data[index] for index in indexes], providers)
    except CannotRunError as error:
        reason = f"the float model does not run on the data: {error.reason}"
        raise InvalidInputError(reason) from error

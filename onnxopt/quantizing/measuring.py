"""How much of the data a budget of seconds allows for, and the float model's outputs for it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.measuring import cannot_run_on_data
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.deviation import Reference

# What one run over all of them may take of the budget, and how many are measured on in any case.
_SHARE, _FEWEST = 0.04, 4
# The same of calibration; observing values takes a few times as long as running.
_CALIBRATION_SHARE, _OBSERVING = 0.25, 4
_FEWEST_CALIBRATED = 8
# The largest error of fewer says little about what comes later.
_ENOUGH = 16


def affordable(
    model: ir.Model,
    data: CalibrationData,
    indexes: Sequence[int],
    options: QuantizeOptions,
    notes: list[str],
) -> Sequence[int]:
    """As many of the input sets as calibration and repairs have time for.

    Args:
        model: The float model.
        data: All of the data.
        indexes: The sets to calibrate on.
        options: The budget.
        notes: Told what was left out.
    """
    if len(indexes) <= _FEWEST_CALIBRATED:
        return indexes
    try:
        first = Reference(model, [data[indexes[0]]], options.target.execution_providers)
    except CannotRunError:
        return indexes  # calibration says which sample it is
    seconds = options.budget * _CALIBRATION_SHARE
    most = max(_FEWEST_CALIBRATED, int(seconds / max(first.seconds * _OBSERVING, 1e-9)))
    if most >= len(indexes):
        return indexes
    notes.append(f"runs take long: calibrated on {most} of {len(indexes)} samples (--budget)")
    step = len(indexes) / most
    return [indexes[int(number * step)] for number in range(most)]


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
        raise cannot_run_on_data(model, error, "the float model") from error

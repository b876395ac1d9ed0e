"""Units ranked by gradients: how much the outputs change with them, to first order.

The score of a unit is the mean of (sum of w * dL/dw over what reads it)^2, the squared change of a
random projection L of the outputs without the unit (Molchanov et al., "Importance estimation for
neural network pruning", 2019, with the model's own outputs in place of labels). It is relative to
the spread of the outputs, so that all groups are on one scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError, MissingDependencyError
from onnxopt.graph.axes.groups import PruningGroup, Slice
from onnxopt.pruning.ladders import Ladder, rising, weight_ladder


def taylor_ladders(
    model: ir.Model,
    groups: Sequence[PruningGroup],
    data: CalibrationData,
    samples: Sequence[int],
    seed: int = 0,
) -> list[Ladder]:
    """The orders by first-order importance.

    Args:
        model: The model that the groups are of.
        groups: The groups. One whose weights have no gradients is ranked by their magnitude.
        data: What to run on.
        samples: Indexes of the input sets to use.
        seed: Of the random projections.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        InvalidInputError: An operator has no counterpart in PyTorch.
    """
    try:
        from onnxopt.recovering.gradients import first_order_effects
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "importance taylor needs PyTorch: pip install 'onnxopt[export]', or take hessian"
        ) from error
    read = [_readers(group) for group in groups]
    names = {item.value.name or "" for items in read for item in items}
    sums = [np.zeros(len(group)) for group in groups]
    counts = [0] * len(groups)
    try:
        for effects in first_order_effects(model, names, data, samples, seed):
            for place, (group, items) in enumerate(zip(groups, read, strict=True)):
                found = [item for item in items if item.value.name in effects]
                if found:
                    parts = [
                        _by_unit(item, effects[item.value.name or ""], group) for item in found
                    ]
                    sums[place] += np.square(np.sum(parts, axis=0))
                    counts[place] += 1
    except InvalidInputError as error:
        raise InvalidInputError(
            f"importance taylor: {error}; take hessian or activation"
        ) from error
    ladders = []
    for group, total, count in zip(groups, sums, counts, strict=True):
        if not count:
            ladders.append(weight_ladder(group, "l2", seed))
            continue
        scores = total / count
        order = np.argsort(scores, kind="stable")
        ladders.append(Ladder(group, order, rising(scores[order]), "taylor"))
    return ladders


def _readers(group: PruningGroup) -> list[Slice]:
    """Slices that a unit speaks through: those of its consumers, or else all."""
    consumers = [item for item in group.slices if item.role == "consumer"]
    return consumers or [item for item in group.slices if item.role == "producer"]


def _by_unit(item: Slice, effect: np.ndarray, group: PruningGroup) -> np.ndarray:
    """Sums of a weight's effects over the slice of each unit."""
    rows = np.moveaxis(effect, item.axis, 0).reshape(len(item.units), -1).sum(1, np.float64)
    present = item.units >= 0
    return np.bincount(item.units[present], rows[present], len(group))

"""Units of zeros, which say nothing to anyone.

    Conv w[64, c, 3, 3] (filters 3 and 9 zero, biases too) -> Relu -> Conv w[o, 64, 3, 3]
        =>   Conv w[62, c, 3, 3] -> Relu -> Conv w[o, 62, 3, 3]

A unit is dead if the slices of all its consumers are zero (whatever flows in, is multiplied by
zero), or if all others are and no operator in between makes something else of zeros. Removing it is
exact up to the order of summation. NaN and infinity times zero are not zero: models that rely on
that are not preserved.

Refused: units that a normalization averages over, since the mean would change; groups of dead units
only, of which one stays. Weights in subgraphs and functions are not looked at.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.graph.axes.groups import PruningGroup, find_groups
from onnxopt.passes.pruning.importance import sum_by_unit
from onnxopt.passes.pruning.quantized import quantized_node
from onnxopt.passes.pruning.removing import Mask, remove_units
from onnxopt.passes.pruning.unsharing import unshare

_RULE = "dead-unit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveDeadUnits(Pass):
    """Removes channels, neurons and heads whose weights are zero."""

    name: ClassVar[str] = "remove-dead-units"

    def call(self, model: ir.Model) -> PassResult:
        """Looks at every unit of the main graph."""
        quantized = quantized_node(model)
        if quantized is not None:
            reason = "the model is quantized; prune the float model, then quantize it"
            return PassResult(model, refusals=[Refusal(_RULE, quantized, reason)])
        # Sharing is undone only where something can be removed: a copy is looked at first.
        trial = model.clone()
        unshare(trial, Names(trial))
        if not any(dead_units(group).any() for group in find_groups(trial)):
            return PassResult(model)
        unshare(model, Names(model))
        groups = find_groups(model)
        removed = np.zeros(int(groups.solution.labels.max(initial=-1)) + 1, bool)
        rewrites: Counter[str] = Counter()
        refusals = []
        for group in groups:
            dead = dead_units(group)
            if not dead.any():
                continue
            if group.statistics:
                reason = f"{group.statistics} normalizes over units of zeros"
                refusals.append(Refusal(_RULE, group.name, reason))
                continue
            if dead.all():
                dead[0] = False
                refusals.append(Refusal(_RULE, group.name, "all units are dead; one stays"))
            removed[group.labels[dead]] = True
            rewrites[_RULE] += int(dead.sum())
        if rewrites[_RULE]:
            remove_units(groups, removed)
        return PassResult(model, rewrites, refusals)


def dead_units(group: PruningGroup) -> Mask:
    """By unit whether it is dead, normalizations apart."""
    alive = {"consumer": np.zeros(len(group), bool), "producer": np.zeros(len(group), bool)}
    roles = {item.role for item in group.slices}
    for item in group.slices:
        if item.role != "statistics":
            alive[item.role] |= sum_by_unit(item, len(group), 1) != 0
    dead = np.zeros(len(group), bool)
    if "consumer" in roles:
        dead |= ~alive["consumer"]
    if "producer" in roles and not group.offset:
        dead |= ~alive["producer"]
    return dead

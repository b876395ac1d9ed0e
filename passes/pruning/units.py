"""The least important channels, neurons and heads, removed for good.

    Conv w[64, c, 3, 3] -> Relu -> Conv w[o, 64, 3, 3]   =>   w[45, c, 3, 3], w[o, 45, 3, 3]

A share `sparsity` of the units goes: of every group (`scope=layer`), or of all units in one ranking
(`scope=global`). Widths are rounded up to a multiple of `multiple`, where kernels work on full
vectors; heads are not rounded. The result is approximate: a guard of parity would undo it.

Refused: quantized models (prune first, then quantize); groups over which a normalization averages,
unless `widths` allows the residual stream to become narrower; the last unit of a group. A pruned
model carries the fact in its metadata and is not pruned again by this pass. Weights in subgraphs
and functions stay.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.graph.axes.groups import Groups, PruningGroup, find_groups
from onnxopt.passes.pruning.importance import Importance, Scores, score_units
from onnxopt.passes.pruning.quantized import quantized_node
from onnxopt.passes.pruning.removing import PRUNED_KEY, Mask, remove_units
from onnxopt.passes.pruning.unsharing import unshare

_RULE = "pruned-unit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneUnits(Pass):
    """Removes a share of the channels, neurons and heads, the least important ones.

    Attributes:
        sparsity: Share of the units to remove, at least 0 and below 1.
        importance: The measure: l1, l2 or random.
        scope: "layer" for the same share everywhere, "global" for one ranking of all.
        multiple: Widths are rounded up to multiples of it.
        widths: Also prune what a normalization averages over.
        seed: For random importance.
    """

    name: ClassVar[str] = "prune-units"

    sparsity: float = 0.3
    importance: Importance = "l2"
    scope: Literal["layer", "global"] = "layer"
    multiple: int = 8
    widths: bool = False
    seed: int = 0

    def call(self, model: ir.Model) -> PassResult:
        """Ranks the units of the main graph and removes the last ones."""
        if not 0 <= self.sparsity < 1:
            raise InvalidInputError(f"sparsity is at least 0 and below 1, not {self.sparsity}")
        if self.multiple < 1:
            raise InvalidInputError(f"multiple is at least 1, not {self.multiple}")
        quantized = quantized_node(model)
        if quantized is not None:
            reason = "the model is quantized; prune the float model, then quantize it"
            return PassResult(model, refusals=[Refusal(_RULE, quantized, reason)])
        if PRUNED_KEY in model.metadata_props:
            reason = f"it was pruned already: {model.metadata_props[PRUNED_KEY]}"
            return PassResult(model, refusals=[Refusal(_RULE, "", reason)])
        unshare(model, Names(model))
        groups = find_groups(model)
        # Kernel positions and the like are no news where another axis of the weight can be pruned.
        prunable = {item.value for group in groups for item in group.slices}
        refusals = [
            Refusal(_RULE, f"{item.value.name} axis {item.axis}", item.reason)
            for item in groups.pinned
            if item.value not in prunable
        ]
        chosen: list[PruningGroup] = []
        for group in groups:
            if group.statistics and not self.widths:
                reason = f"{group.statistics} normalizes over it (widths=true prunes it, too)"
                refusals.append(Refusal(_RULE, group.name, reason))
            else:
                chosen.append(group)
        removed, rewrites = self._choose(groups, chosen)
        if rewrites:
            remove_units(groups, removed)
            model.metadata_props[PRUNED_KEY] = str(self)
        return PassResult(model, rewrites, refusals)

    def _choose(self, groups: Groups, chosen: list[PruningGroup]) -> tuple[Mask, Counter[str]]:
        removed = np.zeros(int(groups.solution.labels.max(initial=-1)) + 1, bool)
        rewrites: Counter[str] = Counter()
        scores = [score_units(group, self.importance, self.seed) for group in chosen]
        limit = np.inf
        if self.scope == "global" and scores:
            limit = float(np.quantile(np.concatenate(scores), self.sparsity))
        for group, found in zip(chosen, scores, strict=True):
            gone = units_to_remove(found, self._kept(group, found, limit))
            removed[group.labels[gone]] = True
            rewrites[f"pruned-{group.kind}"] += int(gone.sum())
        return removed, +rewrites

    def _kept(self, group: PruningGroup, scores: Scores, limit: float) -> int:
        """How many units of a group stay, rounded."""
        size = len(group)
        if self.scope == "layer":
            kept = size - int(self.sparsity * size)
        else:
            kept = int((scores >= limit).sum())
        multiple = 1 if group.kind == "head" else self.multiple
        return min(size, max(1, -(-kept // multiple) * multiple))


def units_to_remove(scores: Scores, kept: int) -> Mask:
    """All units but the `kept` best; of equal ones the first stay."""
    gone = np.ones(len(scores), bool)
    gone[np.argsort(-scores, kind="stable")[:kept]] = False
    return gone

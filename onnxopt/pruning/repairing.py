"""Repair without labels: the weights of a pruned model, fitted to what the original computes.

In the order of the graph, a few nodes at a time: both models run over the calibration data, the
original for what each node should give, the pruned one, with all earlier repairs in it, for what
the node is now given. So what earlier layers still get wrong is made up for by later ones.

Memory is that of the moments of one stage. The number of stages is bounded, so that the cost grows
linearly with the model; within a stage nodes do not see each other's repair.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import onnx_ir as ir

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.walk import Walk
from onnxopt.graph.batch_norms import BatchNorm, batch_norms
from onnxopt.graph.linear_maps import LinearMap, is_shared, linear_maps
from onnxopt.graph.values import same_shape
from onnxopt.pruning.fitting import Fit, Kept, Repair, Stage
from onnxopt.runtime.diagnosis.probing import chunks

_MOST_STAGES = 64
# Moments over more inputs than this take too long to solve.
LARGEST = 6144
_NOT_FITTED = frozenset({"ConvTranspose", "GRU", "LSTM", "RNN"})


def repair(
    original: ir.Model,
    pruned: ir.Model,
    kept: Kept,
    data: CalibrationData,
    samples: Sequence[int],
    *,
    max_memory: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Repair]:
    """Re-fits the weights of the pruned model behind what was removed.

    Args:
        original: The model before, with values of the same names.
        pruned: The model after; its weights are replaced.
        kept: By value and axis which positions stayed, where not all did.
        data: What to run on.
        samples: Indexes of the input sets to use.
        max_memory: Bytes for moments, and as much again for activations between two stages.
        progress: Told the number of stages done and the number of all.

    Returns:
        One entry for each node whose input changed.
    """
    known = {value.name or "" for node in original.graph for value in node.outputs}
    sites, found = _sites(pruned, known, kept)
    before, after = (Walk(data, samples, max_memory // 2) for _ in range(2))
    stages = list(_stages(sites, max_memory))
    for number, stage in enumerate(stages):
        found += Stage(stage, kept, samples).run(original, pruned, before, after)
        if progress is not None:
            progress(number + 1, len(stages))
    return found


def _sites(
    pruned: ir.Model, original: Collection[str], kept: Kept
) -> tuple[list[LinearMap], list[Repair]]:
    """Nodes behind a change, in order, and those that are left alone."""
    maps = {site.node: site for site in (*linear_maps(pruned), *batch_norms(pruned))}
    changed: set[ir.Value] = set()
    sites, refused = [], []
    for node in pruned.graph:
        if not any(v is not None and (v in changed or v.name in kept) for v in node.inputs):
            continue
        changed.update(node.outputs)
        site = maps.get(node)
        if site is not None:
            reason = _reason(Fit(site, site.output.name or ""), original)
        elif node.op_type in _NOT_FITTED:
            reason = f"{node.op_type} is not re-fitted"
        else:
            continue
        if reason:
            refused.append(Repair(node.name or node.outputs[0].name or "", reason=reason))
        elif site is not None:
            sites.append(site)
    return sites, refused


def _reason(fit: Fit, original: Collection[str]) -> str:
    """Why a node is not fitted; "" if it is."""
    if is_shared(fit.site.weight):
        return f"its weight {fit.site.weight.name!r} is shared"
    if isinstance(fit.site, BatchNorm) and fit.site.bias is not None and is_shared(fit.site.bias):
        return f"its shift {fit.site.bias.name!r} is shared"
    if fit.target not in original:
        return "the original has no such value"
    if fit.inputs > 1 and fit.inputs * fit.site.group > LARGEST:
        return f"{fit.inputs * fit.site.group} inputs are more than {LARGEST}"
    return ""


def _stages(sites: Sequence[LinearMap], max_memory: int) -> Iterator[list[Fit]]:
    """Nodes with the same input belong together; the others are as far apart as is allowed."""
    runs: list[list[LinearMap]] = []
    for site in sites:
        if runs and runs[-1][0].source is site.source:
            runs[-1].append(site)
        else:
            runs.append([site])
    linear = {site.node for site in sites}
    per_stage = max(1, -(-len(runs) // _MOST_STAGES))
    for start in range(0, len(runs), per_stage):
        fits = {}
        for place, run in enumerate(runs[start : start + per_stage]):
            for site in run:
                # What is repaired in the same stage must not be made up for once more.
                found = _with_residual(site, linear) if place == 0 else None
                found = found or Fit(site, site.output.name or "")
                fits[found.name] = found
        sizes = {name: fit.bytes for name, fit in fits.items()}
        for part in chunks(list(fits), sizes, max_memory):
            yield [fits[name] for name in part]


def _with_residual(site: LinearMap, linear: set[ir.Node]) -> Fit | None:
    """The sum with a residual stream that a node's output goes into, if that is all it does."""
    value = site.output
    if not site.adds_bias and site.bias is not None:
        value = value.consumers()[0].outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    user = uses[0].node
    if user.op_type not in ("Add", "Sum") or user.domain or user.graph is not site.node.graph:
        return None
    others = [v for place, v in enumerate(user.inputs) if place != uses[0].idx]
    for other in others:
        if other is None or other.is_initializer() or not same_shape(other, value):
            return None
        if _is_linear(other, linear):
            return None
    return Fit(site, user.outputs[0].name or "", tuple(v.name or "" for v in others if v))


def _is_linear(value: ir.Value, linear: set[ir.Node]) -> bool:
    """True if a node that is fitted itself makes the value, but for its bias."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Add":
        return any(v is not None and v.producer() in linear for v in producer.inputs)
    return producer in linear

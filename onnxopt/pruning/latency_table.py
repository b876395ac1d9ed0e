"""The latency table of a target: how long the nodes of each group take, by the width of the group.

The model is profiled on the target at a few uniform widths, after ONNX Runtime's own fusions. The
time of a node that touches several groups is shared among them; a node that ONNX Runtime fused into
another is part of that one's time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.groups import Groups
from onnxopt.pruning.gains import node_shares
from onnxopt.runtime.measuring.profiling import profile_model
from onnxopt.runtime.session import Feeds, open_session
from onnxopt.targets import Target

WIDTHS = (1.0, 0.75, 0.5, 0.25)
Curve = tuple[Sequence[float], Sequence[float]]


def latency_table(
    groups: Groups,
    at_width: Callable[[float], ir.Model],
    feeds: Feeds,
    target: Target,
    seconds: float,
) -> tuple[dict[str, Curve], dict[str, float]]:
    """Milliseconds by group and share of its units, and seconds by node.

    Args:
        groups: The groups of the model.
        at_width: The model with this share of the units of every group.
        feeds: What to run on.
        target: Where.
        seconds: For all profiles together.

    Returns:
        By name of a group, rising shares and the milliseconds at each; by name of a node, how
        long it takes in the whole model.
    """
    shares = node_shares(groups)
    listed = list(groups)
    rows: list[dict[str, float]] = []
    profiles = [
        _node_times(at_width(width), feeds, target, seconds / len(WIDTHS)) for width in WIDTHS
    ]
    for times in profiles:
        row: dict[str, float] = {}
        for node, held in shares.items():
            spent = times.get(node.name or "", 0.0)
            for index, share in held.items():
                name = listed[index].name
                row[name] = row.get(name, 0.0) + 1e3 * spent * share / len(held)
        rows.append(row)
    curves: dict[str, Curve] = {}
    for name in rows[0]:
        times_of = [row.get(name, 0.0) for row in rows]
        # Narrower is never slower, but for noise.
        falling = np.minimum.accumulate(times_of)
        curves[name] = (WIDTHS[::-1], falling[::-1].tolist())
    return curves, profiles[0]


def _node_times(model: ir.Model, feeds: Feeds, target: Target, seconds: float) -> dict[str, float]:
    """Seconds per run by name of the node; fused nodes count for the one they are named after."""
    open_ = functools.partial(
        open_session,
        model,
        threads=target.threads,
        providers=target.execution_providers,
        spinning=False,
    )
    profile = profile_model(lambda prefix: open_(profile_prefix=prefix), feeds, seconds=seconds)
    names = {node.name for node in model.graph if node.name}
    times: dict[str, float] = {}
    for cost in profile.nodes:
        name = _original(cost.name, names)
        times[name] = times.get(name, 0.0) + cost.seconds
    return times


def _original(name: str, names: set[str]) -> str:
    """The node of the model that a node of the session is named after."""
    if name in names:
        return name
    trimmed = name.removeprefix("fused ").removesuffix("_nchwc")
    if trimmed in names:
        return trimmed
    while trimmed and trimmed not in names:
        trimmed = trimmed[:-1]
    return trimmed or name

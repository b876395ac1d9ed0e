"""What a unit less of a group gives: operations, bytes, milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.groups import Groups
from onnxopt.graph.cost import node_flops
from onnxopt.pruning.ladders import Ladder


def unit_gain(ladder: Ladder, before: int, after: int) -> float:
    """Units."""
    return float(before - after)


def byte_gain(ladder: Ladder, before: int, after: int) -> float:
    """Bytes of the slices, as if no other group shrank."""
    total = 0.0
    for item in ladder.group.slices:
        tensor = item.value.const_value
        assert tensor is not None
        share = float((item.units >= 0).mean())
        total += share * tensor.nbytes
    return total * (before - after) / len(ladder.group)


def node_shares(groups: Groups) -> dict[ir.Node, dict[int, float]]:
    """By node and group, which share of an axis of the node's operands the group holds.

    A node with two axes of a product (input and output channels) has two such shares; its work is
    proportional to each.
    """
    group_of = np.full(int(groups.solution.labels.max(initial=-1)) + 1, -1, np.int64)
    for index, group in enumerate(groups):
        group_of[group.labels] = index
    found: dict[ir.Node, dict[int, float]] = {}
    for node in groups.builder.model.graph:
        shares: dict[int, float] = {}
        for value in (*node.inputs, *node.outputs):
            if value is None:
                continue
            for axis in range(len(groups.builder.slots.get(value, ()))):
                labels = groups.labels(value, axis)
                if labels is None:
                    continue
                held = group_of[labels]
                for index in np.unique(held[held >= 0]):
                    share = float((held == index).mean())
                    shares[int(index)] = max(shares.get(int(index), 0.0), share)
        if shares:
            found[node] = shares
    return found


def flop_gain(groups: Groups, sizes: Mapping[str, int]) -> Callable[[Ladder, int, int], float]:
    """Operations of all nodes that touch the group, as if no other group shrank."""
    totals: dict[str, float] = {}
    listed = list(groups)
    for node, shares in node_shares(groups).items():
        flops = node_flops(node, dict(sizes)) or 0
        for index, share in shares.items():
            name = listed[index].name
            totals[name] = totals.get(name, 0.0) + flops * share

    def gain(ladder: Ladder, before: int, after: int) -> float:
        return totals.get(ladder.group.name, 0.0) * (before - after) / len(ladder.group)

    return gain


def curve_gain(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Callable[[Ladder, int, int], float]:
    """Milliseconds from a latency table.

    Args:
        curves: By name of a group, shares of its units and the milliseconds of its nodes at each.
    """

    def gain(ladder: Ladder, before: int, after: int) -> float:
        if ladder.group.name not in curves:
            return 0.0
        shares, times = curves[ladder.group.name]
        size = len(ladder.group)
        first, second = np.interp([before / size, after / size], shares, times)
        return float(first - second)

    return gain

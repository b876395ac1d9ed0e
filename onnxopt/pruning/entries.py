"""What the report says of groups and blocks, once it is decided what goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from onnxopt.graph.axes.groups import PruningGroup
from onnxopt.pruning.allocating import Allocation
from onnxopt.pruning.report import BlockEntry, GroupEntry


def group_entries(
    groups: Iterable[PruningGroup], allocation: Allocation, count: int, reasons: Mapping[str, str]
) -> Iterator[GroupEntry]:
    """One for each group.

    Args:
        groups: All groups of the model.
        allocation: Those that may shrink, and the blocks.
        count: How many of its steps are taken.
        reasons: By name of a group, why it may not shrink.
    """
    widths = allocation.widths(count)
    places = {id(ladder.group): place for place, ladder in enumerate(allocation.ladders)}
    lost = {w for span in allocation.gone(count) for b in span.blocks for w in b.weights}
    for group in groups:
        entry = GroupEntry(group.name, group.kind, len(group), len(group))
        place = places.get(id(group))
        if place is not None:
            ladder = allocation.ladders[place]
            costs = tuple(float(cost) for cost in ladder.costs)
            entry = dataclasses.replace(
                entry, kept=widths[place], importance=ladder.measure, costs=costs
            )
        weights = {item.value for item in group.slices}
        if weights and weights <= lost:
            yield dataclasses.replace(entry, kept=0, reason="gone with its block")
        else:
            yield dataclasses.replace(entry, reason=reasons.get(group.name, ""))


def block_entries(allocation: Allocation, count: int) -> Iterator[BlockEntry]:
    """One for each block, or layer, that may go."""
    gone = {id(span) for span in allocation.gone(count)}
    for one in allocation.spans:
        span = one.span
        tensors = [weight.const_value for block in span.blocks for weight in block.weights]
        size = sum(tensor.size for tensor in tensors if tensor is not None)
        yield BlockEntry(span.name, span.kind, size, one.cost, id(span) in gone)

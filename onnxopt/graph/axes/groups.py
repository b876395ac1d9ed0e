"""`find_groups`: what can be pruned from a model, and what else has to go along with it.

A unit is a set of slices that can only be removed together: a channel with its filter, its bias and
the column of every consumer; a head with its rows of four weights. Units with slices of the same
axes make a group, out of which any number can be removed, but not all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.axes.components import Positions
from onnxopt.graph.axes.solving import Solution, solve
from onnxopt.graph.axes.tracing import trace_axes
from onnxopt.graph.inference import Inference


@dataclasses.dataclass(frozen=True)
class Slice:
    """An axis of an initializer that a group has positions of.

    Attributes:
        value: The initializer.
        axis: Its axis.
        units: By position of the axis the index of the unit in the group, or -1.
        role: "consumer" where an operator sums over the axis, "statistics" for a running mean or
            variance, "producer" otherwise.
    """

    value: ir.Value
    axis: int
    units: Positions
    role: str


@dataclasses.dataclass(frozen=True)
class PruningGroup:
    """Units of the same make.

    Attributes:
        name: After the first initializer in it.
        kind: "channel", "head", "neuron" or "feature".
        labels: Component of each unit, in order of position.
        slices: All slices of initializers.
        statistics: Why removing units of zeros changes a normalization; "" if it does not.
        offset: The operator that makes something else of zeros, so that units whose producers are
            zero still say something to consumers; "" if there is none.
    """

    name: str
    kind: str
    labels: Positions
    slices: tuple[Slice, ...]
    statistics: str
    offset: str

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self)} x {self.kind}"]
        for item in self.slices:
            per_unit = int((item.units >= 0).sum()) / len(self)
            lines.append(
                f"  {item.role:<10} {item.value.name} axis {item.axis}, {per_unit:g} a unit"
            )
        if self.statistics:
            lines.append(f"  approximate: {self.statistics} normalizes over the axis")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Pinned:
    """An axis of a weight that cannot be pruned.

    Attributes:
        value: The initializer.
        axis: Its axis.
        reason: Why.
    """

    value: ir.Value
    axis: int
    reason: str


class Groups:
    """All pruning groups of a model.

    Attributes:
        groups: In order of the graph.
        pinned: Axes of weights no position of which can go.
        builder: The axes of every value.
        solution: The components.
    """

    def __init__(self, builder: AxisBuilder) -> None:
        self.builder = builder
        self.solution: Solution = solve(builder.variables)
        self.groups: list[PruningGroup] = []
        self.pinned: list[Pinned] = []
        self._collect()

    def __iter__(self) -> Iterator[PruningGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def labels(self, value: ir.Value, axis: int) -> Positions | None:
        """The component of each position of an axis; None if it is not followed."""
        slot = self.builder.slots[value][axis] if value in self.builder.slots else None
        return None if slot is None else self.solution.of(slot.variable)

    def weights(self) -> Iterator[ir.Value]:
        """Initializers with weights in them: floating-point tensors that are no graph inputs."""
        for value in self.builder.model.graph.initializers.values():
            if value.dtype is not None and value.dtype.is_floating_point():
                yield value

    def _collect(self) -> None:
        groups_of, members = _signatures(self.solution)
        marks = {kind: self._marked(kind) for kind in ("statistics", "offset")}
        slices: dict[int, list[Slice]] = {}
        index_of = np.full(int(self.solution.labels.max(initial=-1)) + 1, -1, np.int64)
        for labels in members.values():
            index_of[labels] = np.arange(len(labels))
        for value in self.weights():
            if value not in self.builder.slots:
                continue
            for axis in range(len(self.builder.slots[value])):
                found = self.labels(value, axis)
                if found is None:
                    continue
                present = groups_of[found]
                kept = np.unique(present[present >= 0])
                for group in kept:
                    units = np.where(present == group, index_of[found], -1)
                    role = self._role(value, axis)
                    slices.setdefault(int(group), []).append(Slice(value, axis, units, role))
                if not len(kept):
                    reason = self.solution.reasons[int(found[0])]
                    self.pinned.append(Pinned(value, axis, reason))
        for group, items in sorted(slices.items(), key=lambda pair: pair[0]):
            labels = members[group]
            first = int(labels[0])
            self.groups.append(
                PruningGroup(
                    name=items[0].value.name or "",
                    kind=self._kind(items, labels),
                    labels=labels,
                    slices=tuple(items),
                    statistics=marks["statistics"].get(first, ""),
                    offset=marks["offset"].get(first, ""),
                )
            )

    def _role(self, value: ir.Value, axis: int) -> str:
        if (value, axis) in self.builder.ignored:
            return "statistics"
        return "consumer" if (value, axis) in self.builder.contracted else "producer"

    def _marked(self, kind: str) -> dict[int, str]:
        found: dict[int, str] = {}
        done: set[int] = set()
        for mark in self.builder.variables.marks:
            root = self.builder.variables.root(mark.variable)
            if mark.kind == kind and root not in done:
                done.add(root)
                for label in np.unique(self.solution.of(root)):
                    found.setdefault(int(label), mark.reason)
        return found

    def _kind(self, items: list[Slice], labels: Positions) -> str:
        heads = self.solution.heads
        if any(len(np.intersect1d(self.solution.of(head), labels[:1])) for head in heads) and any(
            int((item.units == 0).sum()) > 1 for item in items
        ):
            return "head"
        users = {n.op_type for item in items for n in item.value.consumers()}
        if users & {"Conv", "ConvTranspose"}:
            return "channel"
        return "feature" if any(item.role == "consumer" for item in items[:1]) else "neuron"


def find_groups(
    model: ir.Model,
    *,
    changeable: Collection[str] = (),
    free_rows: Collection[str] = (),
    inference: Inference | None = None,
) -> Groups:
    """Everything that can be pruned. Types and shapes are written on the model's values.

    Args:
        model: A float model in topological order.
        changeable: Graph inputs and outputs whose static axes may become shorter.
        free_rows: Names of tables of Gather whose rows may go; the caller renumbers the indices.
        inference: What is known of its values, if that is known already.
    """
    return Groups(
        trace_axes(model, changeable=changeable, free_rows=free_rows, inference=inference)
    )


def _signatures(solution: Solution) -> tuple[NDArray[np.int64], dict[int, Positions]]:
    """The group of every component (-1 for pinned ones), and the components of every group.

    Components with as many positions of the same variables belong together. They are told apart by
    the sum of a random number per variable, so that the cost is linear.
    """
    count = int(solution.labels.max(initial=-1)) + 1
    keys = np.random.default_rng(0).integers(1, 1 << 62, len(solution.offsets), dtype=np.uint64)
    sizes = [solution.variables.sizes[root] for root in solution.offsets]
    sums = np.zeros(count, np.uint64)
    np.add.at(sums, solution.labels, np.repeat(keys, sizes))
    pinned = np.zeros(count, bool)
    pinned[list(solution.reasons)] = True
    groups = np.full(count, -1, np.int64)
    free = np.flatnonzero(~pinned)
    _, first, inverse = np.unique(sums[free], return_index=True, return_inverse=True)
    # Numbered in the order in which they occur in the graph.
    order = np.argsort(np.argsort(first))
    groups[free] = order[inverse]
    members: dict[int, Positions] = {}
    by_group = free[np.argsort(groups[free], kind="stable")]
    bounds = np.searchsorted(groups[by_group], np.arange(len(first) + 1))
    for group in range(len(first)):
        members[group] = by_group[bounds[group] : bounds[group + 1]]
    return groups, members

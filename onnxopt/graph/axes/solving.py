"""From relations between axis variables to components: what goes together, and what is pinned."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.axes.components import Positions, connected_components
from onnxopt.graph.axes.variables import Factorization, Variables


@dataclasses.dataclass
class Solution:
    """Components of positions.

    Attributes:
        offsets: By root variable, where its positions start in `labels`.
        labels: The component of every position of every root.
        reasons: By pinned component, why it cannot be removed.
        heads: Roots of the factors that factorizations are cut along.
    """

    variables: Variables
    offsets: dict[int, int]
    labels: Positions
    reasons: dict[int, str]
    heads: frozenset[int]

    def of(self, variable: int) -> Positions:
        """The component of every position of a variable."""
        root = self.variables.root(variable)
        start = self.offsets[root]
        return self.labels[start : start + self.variables.sizes[root]]


def solve(variables: Variables) -> Solution:
    """Decides along which factor each factorization is cut and numbers the components.

    Every round decides at least one factorization and costs one pass over all positions. Those that
    do not influence each other are decided in the same round: real models take about three.
    """
    solver = _Solver(variables)
    while not solver.round():
        pass
    return Solution(
        variables, solver.offsets, solver.labels, solver.reasons(), frozenset(solver.heads)
    )


class _Solver:
    def __init__(self, variables: Variables) -> None:
        self.variables = variables
        self.pending = list(variables.factorizations)
        roots = sorted({variables.root(item) for item in range(len(variables.sizes))})
        self.offsets: dict[int, int] = {}
        self.total = 0
        for root in roots:
            self.offsets[root] = self.total
            self.total += variables.sizes[root]
        self.heads: set[int] = set()
        self.labels: Positions = np.empty(0, np.int64)
        self.pinned: NDArray[np.bool_] = np.empty(0, bool)

    def _span(self, variable: int) -> slice:
        root = self.variables.root(variable)
        start = self.offsets[root]
        return slice(start, start + self.variables.sizes[root])

    def _label(self) -> None:
        start = {v: self.offsets[self.variables.root(v)] for v in range(len(self.variables.sizes))}
        ties = self.variables.ties
        self.labels = connected_components(
            self.total,
            [(tie.one + start[tie.first], tie.other + start[tie.second]) for tie in ties],
        )
        components = np.zeros(self.total, bool)
        for pin in self.variables.pins:
            found = self.labels[self._span(pin.variable)]
            components[found if pin.positions is None else found[pin.positions]] = True
        self.pinned = components[self.labels]

    def _all_pinned(self, variable: int) -> bool:
        return bool(self.pinned[self._span(variable)].all())

    def round(self) -> bool:
        """Decides what can be decided now; True if nothing is left."""
        self._label()
        if not self.pending:
            return True
        left = [item for item in self.pending if not self._forced(item)]
        if len(left) == len(self.pending):
            left = self._choose(left)
        self.pending = left
        return False

    def _forced(self, item: Factorization) -> bool:
        """Decides a factorization that leaves no choice."""
        if self._all_pinned(item.whole):
            self._pin(item.factors, f"{item.where}: part of an axis that cannot be pruned")
            return True
        free = [factor for factor in item.factors if not self._all_pinned(factor)]
        if len(free) > 1:
            return False
        if free:
            self._cut(item, free[0])
        else:
            self._pin((item.whole,), f"{item.where}: made of axes that cannot be pruned")
        return True

    def _choose(self, items: list[Factorization]) -> list[Factorization]:
        """Cuts along the outermost free factor wherever no earlier choice of the round matters."""
        touched: set[int] = set()
        left = []
        for item in items:
            roots = {self.variables.root(factor) for factor in item.factors}
            free = [factor for factor in item.factors if not self._all_pinned(factor)]
            # What another factorization was cut along, this one had better be cut along, too.
            cut_already = (f for f in free if self.variables.root(f) in self.heads)
            best = next(cut_already, free[0])
            others = roots - {self.variables.root(best)}
            if self.variables.root(best) in touched or (others & self.heads):
                left.append(item)
                continue
            touched |= others
            self._cut(item, best)
        if len(left) == len(items):
            # Contradictory choices: what is left over is pinned whole, which is always safe.
            self._pin([item.whole for item in left], f"{left[0].where}: it is cut in two ways")
            self._pin([f for item in left for f in item.factors], left[0].where)
            return []
        return left

    def _cut(self, item: Factorization, chosen: int) -> None:
        sizes = [self.variables.sizes[factor] for factor in item.factors]
        place = item.factors.index(chosen)
        inner = int(np.prod(sizes[place + 1 :], dtype=np.int64))
        self.variables.tie_blocks(item.whole, chosen, inner=inner)
        self.heads.add(self.variables.root(chosen))
        others = [factor for factor in item.factors if factor != chosen]
        self._pin(others, f"{item.where}: cut along the axis beside it")

    def _pin(self, variables: list[int] | tuple[int, ...], reason: str) -> None:
        for variable in variables:
            if not self._all_pinned(variable):
                self.variables.pin(variable, reason)

    def reasons(self) -> dict[int, str]:
        """The first reason of every pinned component."""
        found: dict[int, str] = {}
        done: set[int] = set()
        for pin in self.variables.pins:
            root = self.variables.root(pin.variable)
            if root in done:
                continue
            if pin.positions is None:
                done.add(root)
            labels = self.labels[self._span(pin.variable)]
            for label in np.unique(labels if pin.positions is None else labels[pin.positions]):
                found.setdefault(int(label), pin.reason)
        return found

"""`Variables`: axis variables and all that ties them.

An axis variable stands for the positions of one or more axes that correspond one to one. Relations
that are not one to one are kept beside: ties between single positions, and factorizations.

A factorization says that a variable of size a * b * c is the row-major product of variables of
sizes a, b and c, as in a Reshape from 384 features to 12 heads of size 32. Positions of a product
can only be removed as whole slices of one factor. Which factor that is, is decided when all
relations are known: the only one that is not pinned, or else the outermost (heads, not the
features inside each head). The other factors are pinned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxopt.graph.axes.components import Positions


@dataclasses.dataclass(frozen=True)
class Tie:
    """Position `one[i]` of a variable and position `other[i]` of another go together."""

    first: int
    one: Positions
    second: int
    other: Positions


@dataclasses.dataclass(frozen=True)
class Pin:
    """Positions of a variable that cannot be removed; None for all."""

    variable: int
    reason: str
    positions: Positions | None = None


@dataclasses.dataclass(frozen=True)
class Factorization:
    """A variable as the row-major product of others."""

    whole: int
    factors: tuple[int, ...]
    where: str


@dataclasses.dataclass(frozen=True)
class Mark:
    """What an operator does to a variable.

    Attributes:
        variable: The variable.
        kind: "statistics" where removing a position of zeros changes a mean over the axis; "offset"
            where zeros do not stay zeros.
        reason: The operator.
    """

    variable: int
    kind: str
    reason: str


class Variables:
    """All axis variables of a model. Unions of whole variables take effect at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._parents: list[int] = []
        self.ties: list[Tie] = []
        self.pins: list[Pin] = []
        self.factorizations: list[Factorization] = []
        self.marks: list[Mark] = []

    def new(self, size: int) -> int:
        """A variable with `size` positions."""
        self.sizes.append(size)
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, variable: int) -> int:
        """The variable that stands for all that are one with this."""
        parents = self._parents
        while parents[variable] != variable:
            parents[variable] = parents[parents[variable]]
            variable = parents[variable]
        return variable

    def unite(self, one: int, other: int) -> None:
        """Makes two variables of equal size one."""
        first, second = self.root(one), self.root(other)
        if first != second:
            self._parents[max(first, second)] = min(first, second)

    def tie(self, first: int, one: Positions, second: int, other: Positions) -> None:
        """Ties positions pairwise."""
        self.ties.append(Tie(first, one, second, other))

    def tie_blocks(self, whole: int, part: int, *, inner: int) -> None:
        """Ties position p of `whole` to position `(p // inner) % size` of `part`."""
        positions = np.arange(self.sizes[whole])
        self.tie(whole, positions, part, positions // inner % self.sizes[part])

    def pin(self, variable: int, reason: str, positions: Positions | None = None) -> None:
        """Forbids to remove all or some positions."""
        self.pins.append(Pin(variable, reason, positions))

    def factor(self, whole: int, factors: Sequence[int], where: str) -> None:
        """Notes a factorization."""
        self.factorizations.append(Factorization(whole, tuple(factors), where))

    def mark(self, variable: int, kind: str, reason: str) -> None:
        """Notes what an operator does to the variable."""
        self.marks.append(Mark(variable, kind, reason))

"""Which nodes' quantization an output feels most, for how much work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

# Each group costs a session; neighbours depend on each other anyway.
_MOST_GROUPS = 24
# What a node costs in float besides its work, as a share of the work of all.
_LEAST_WORK = 0.003


class Sensitivity:
    """Measures what the output loses with one group of nodes quantized at a time.

    Args:
        attempt: Quantizes with nodes of these names left in float and tells the loss.
        works: Operations of the nodes that would be quantized, by name in the order of the graph.

    Attributes:
        losses: Loss by node name.
        out_of_time: True if not all groups were measured; the others count as typical.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[str]], float],
        works: Mapping[str, float],
    ) -> None:
        self._attempt, self._works = attempt, works
        self.losses: dict[str, float] = {}
        self.out_of_time = False

    def ranked(self, end: float) -> tuple[list[list[str]], list[list[str]]]:
        """Groups of names, first those best left in float; and again, first those that lose most.

        Best left in float are those that are over the budget (a loss above 1) by themselves; then,
        as errors of different nodes add up like noise, by their squares, those whose squared loss
        is largest for the work that their group would do faster.

        Args:
            end: When to stop, as `time.perf_counter` counts.
        """
        names = list(self._works)
        size = max(1, -(-len(names) // _MOST_GROUPS))
        groups = [names[i : i + size] for i in range(0, len(names), size)]
        total = sum(self._works.values()) or 1.0
        works = [sum(self._works[n] for n in group) / total + _LEAST_WORK for group in groups]
        found: dict[int, float] = {}
        for index in _most_telling_first(works):
            if found and time.perf_counter() > end:
                self.out_of_time = True
                break
            group = groups[index]
            found[index] = self._attempt([name for name in names if name not in group])
            self.losses |= dict.fromkeys(group, found[index])
        usual = statistics.median(found.values()) if found else 0.0

        losses = [found.get(index, usual) for index in range(len(groups))]

        def worth(index: int) -> tuple[bool, float]:
            return losses[index] <= 1, -(losses[index] ** 2) / works[index]

        best = sorted(range(len(groups)), key=worth)
        worst = sorted(range(len(groups)), key=lambda index: -losses[index])
        return [groups[index] for index in best], [groups[index] for index in worst]


def _most_telling_first(works: Sequence[float]) -> list[int]:
    """The ends of the model, which are often sensitive, and then where most of the work is."""
    ends = [0, len(works) - 1] if len(works) > 1 else [*range(len(works))]
    return ends + sorted(range(1, len(works) - 1), key=lambda index: -works[index])

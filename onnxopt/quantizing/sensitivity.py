"""Which nodes' quantization an output feels most."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# Each group costs a session; neighbours depend on each other anyway.
_MOST_GROUPS = 24


class Sensitivity:
    """Measures what the output loses with one group of nodes quantized at a time.

    Args:
        attempt: Quantizes with nodes of these names left in float and tells the loss.
        names: Nodes that would be quantized, in the order of the graph.
        end: When to stop, as `time.perf_counter` counts.

    Attributes:
        losses: Loss by node name.
        out_of_time: True if not all groups were measured; the rest counts as least sensitive.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[str]], float],
        names: Sequence[str],
        end: float,
    ) -> None:
        self._attempt, self._names = attempt, list(names)
        self._end = end
        self.losses: dict[str, float] = {}
        self.out_of_time = False

    def ranked(self) -> list[list[str]]:
        """Groups of names, the most sensitive first."""
        size = max(1, -(-len(self._names) // _MOST_GROUPS))
        groups = [self._names[i : i + size] for i in range(0, len(self._names), size)]
        half = time.perf_counter() + max(0.0, self._end - time.perf_counter()) / 2
        found: list[float] = []
        for group in groups:
            if time.perf_counter() > half:
                self.out_of_time = True
                found.append(0.0)
                continue
            loss = self._attempt([name for name in self._names if name not in group])
            found.append(loss)
            self.losses |= dict.fromkeys(group, loss)
        order = sorted(range(len(groups)), key=lambda index: -found[index])
        return [groups[index] for index in order]

"""The cheapest cut of a small network, by augmenting paths."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable

UNLIMITED = 1 << 30


class Network:
    """A directed network with integer capacities; its nodes are any hashable objects."""

    def __init__(self) -> None:
        self._capacity: dict[Hashable, dict[Hashable, int]] = {}

    def add(self, start: Hashable, end: Hashable, capacity: int) -> None:
        """Adds `capacity` to the edge from `start` to `end`."""
        self._capacity.setdefault(start, {}).setdefault(end, 0)
        self._capacity.setdefault(end, {}).setdefault(start, 0)
        self._capacity[start][end] += capacity

    def cut(self, source: Hashable, sink: Hashable) -> tuple[int, set[Hashable]]:
        """The capacity of the cheapest cut, and the smallest source side that has it."""
        flow = 0
        while True:
            reached = self._reach(source, sink)
            if sink not in reached:
                return flow, set(reached)
            path = [sink]
            while path[-1] != source:
                path.append(reached[path[-1]])
            edges = [(end, start) for start, end in itertools.pairwise(path)]
            extra = min(self._capacity[start][end] for start, end in edges)
            for start, end in edges:
                self._capacity[start][end] -= extra
                self._capacity[end][start] += extra
            flow += extra

    def _reach(self, source: Hashable, sink: Hashable) -> dict[Hashable, Hashable]:
        """What is reachable over edges with capacity left, each with its predecessor."""
        reached: dict[Hashable, Hashable] = {source: source}
        queue = deque([source])
        while queue and sink not in reached:
            start = queue.popleft()
            for end, capacity in self._capacity.get(start, {}).items():
                if capacity > 0 and end not in reached:
                    reached[end] = start
                    queue.append(end)
        return reached

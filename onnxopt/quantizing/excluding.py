"""Leaving in float what keeps a form over the budget of error, for as little speed as possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from onnxopt.quantizing.sensitivity import Sensitivity
from onnxopt.quantizing.tried import Tried

# Of the time that is left this share may go into finding out which nodes are sensitive.
_SHARE = 0.6


class Excluding:
    """The search for one form.

    Args:
        attempt: Builds the form with nodes of these names in float, and measures it.
        loss: Tells what is lost with nodes of these names in float, on few inputs.
        within: True for a form within the budget of error.
        works: Operations of the nodes that would be quantized, by name in the order of the graph.
        end: When to stop, as `time.perf_counter` counts.

    Attributes:
        losses: Share of the budget by node that was measured.
        out_of_time: True if there was not enough for all of it.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[str]], Tried | None],
        loss: Callable[[Sequence[str]], float],
        within: Callable[[Tried], bool],
        works: Mapping[str, float],
        end: float,
    ) -> None:
        self._attempt, self._within, self._works, self._end = attempt, within, works, end
        now = time.perf_counter()
        self._sensitivity = Sensitivity(loss, works, now + max(0.0, end - now) * _SHARE)
        self.losses = self._sensitivity.losses
        self.out_of_time = False

    def find(self) -> Tried | None:
        """The form within the budget that leaves the least work in float; None if none is."""
        groups = self._sensitivity.ranked()
        self.out_of_time = self._sensitivity.out_of_time
        found, count = self._shortest(groups)
        return None if found is None else self._given_back(found, groups[: max(count - 1, 0)])

    def _shortest(self, groups: Sequence[Sequence[str]]) -> tuple[Tried | None, int]:
        """With as few of the first groups in float as it takes, and how many those are."""
        found: Tried | None = None
        low, high = 1, len(groups) - 1
        while low <= high:
            if self._is_late():
                break
            middle = (low + high) // 2
            one = self._attempt([name for group in groups[:middle] for name in group])
            if one is not None and self._within(one):
                found, high = one, middle - 1
            else:
                low = middle + 1
        return found, high + 1

    def _given_back(self, found: Tried, groups: Sequence[Sequence[str]]) -> Tried:
        """Without those that need not be in float after all, those with most work first."""
        for group in sorted(groups, key=lambda group: -sum(self._works[name] for name in group)):
            if any(self.losses.get(name, 0.0) > 1 for name in group):
                continue
            if self._is_late():
                break
            one = self._attempt([name for name in found.excluded if name not in group])
            if one is not None and self._within(one):
                found = one
        return found

    def _is_late(self) -> bool:
        late = time.perf_counter() > self._end
        self.out_of_time |= late
        return late

"""Leaving in float what keeps a form over the budget of error, for as little speed as possible."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from onnxopt.quantizing.sensitivity import Sensitivity
from onnxopt.quantizing.tried import Tried

# Builds a form with nodes of these names in float, and measures it.
Attempt = Callable[[Sequence[str]], Tried | None]
# Of the time that is left this share may go into finding out which nodes are sensitive.
_SHARE = 0.6


class Excluding:
    """The search for one form, and for the same form once it is repaired.

    Args:
        loss: Tells what is lost with nodes of these names in float, on few inputs.
        within: True for a form within the budget of error.
        works: Operations of the nodes that would be quantized, by name in the order of the graph.

    Attributes:
        losses: Share of the budget by node that was measured.
        out_of_time: True if there was not enough for all of it.
    """

    def __init__(
        self,
        loss: Callable[[Sequence[str]], float],
        within: Callable[[Tried], bool],
        works: Mapping[str, float],
    ) -> None:
        self._within, self._works = within, works
        self._sensitivity = Sensitivity(loss, works)
        self._orders: tuple[list[list[str]], ...] = ()
        self._end = 0.0
        self.losses = self._sensitivity.losses
        self.out_of_time = False

    def find(self, attempt: Attempt, end: float, known: Tried | None = None) -> Tried | None:
        """The form within the budget that leaves the least work in float; None if none is.

        Args:
            attempt: Builds the form.
            end: When to stop, as `time.perf_counter` counts.
            known: What was found before the form was repaired, to begin with.
        """
        self._end, now = end, time.perf_counter()
        if not self._orders:
            self._orders = self._sensitivity.ranked(now + max(0.0, end - now) * _SHARE)
            self.out_of_time |= self._sensitivity.out_of_time
        if known is not None:
            left = [group for group in self._orders[0] if set(group) & set(known.excluded)]
            found = attempt(known.excluded)
            usable = found is not None and self._within(found)
            return self._given_back(attempt, found, left) if found and usable else known
        for groups in self._orders:
            found, count = self._shortest(attempt, groups)
            if found is not None:
                return self._given_back(attempt, found, groups[: max(count - 1, 0)])
        return None

    def _shortest(
        self, attempt: Attempt, groups: Sequence[Sequence[str]]
    ) -> tuple[Tried | None, int]:
        """With as few of the first groups in float as it takes, and how many those are."""
        found: Tried | None = None
        low, high = 1, len(groups) - 1
        while low <= high and not self._is_late():
            middle = (low + high) // 2
            one = attempt([name for group in groups[:middle] for name in group])
            if one is not None and self._within(one):
                found, high = one, middle - 1
            else:
                low = middle + 1
        return found, high + 1

    def _given_back(self, attempt: Attempt, found: Tried, groups: Sequence[Sequence[str]]) -> Tried:
        """Without those that need not be in float after all, those with most work first."""
        for group in sorted(groups, key=lambda group: -sum(self._works[name] for name in group)):
            if self._is_late():
                break
            one = attempt([name for name in found.excluded if name not in group])
            if one is not None and self._within(one):
                found = one
        return found

    def _is_late(self) -> bool:
        late = time.perf_counter() > self._end
        self.out_of_time |= late
        return late

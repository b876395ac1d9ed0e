"""How many units each group loses: steps of equal width, cheapest first.

A plan is a number of steps taken from one list, so that any goal is found by bisection. With one
share for every group the list is in order of the share that is gone after a step; with one ranking
it is in order of cost per gain, where the gain is what is asked for: units, operations, bytes or
milliseconds. Within a group steps keep their order. A block is a step of its own.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from onnxopt.graph.residuals import Span
from onnxopt.passes.pruning.removing import Mask
from onnxopt.pruning.blocks import RankedSpan
from onnxopt.pruning.ladders import Ladder
from onnxopt.pruning.options import Scope

# What a group gains when it goes from so many units to fewer, in any measure.
Gain = Callable[[Ladder, int, int], float]
# Groups of a few units are cut more finely than kernels like.
_FEWEST_STEPS = 8


@dataclasses.dataclass(frozen=True)
class Step:
    """Some units less, or a block.

    Attributes:
        ladder: Index of the ladder of the group; behind them come the blocks.
        kept: Units that the group has left afterwards; 0 of a block.
        key: The place in the order of all steps.
    """

    ladder: int
    kept: int
    key: float


class Allocation:
    """All steps there are, in order.

    Args:
        ladders: One for each group that may shrink.
        scope: What the order is by.
        gain: What a step gives, in one ranking.
        multiple: Widths are multiples of it, where the group is large enough.
        spans: Blocks that may go.
        strict: Small groups, too; those of no more units than one multiple keep them all.
    """

    def __init__(
        self,
        ladders: Sequence[Ladder],
        scope: Scope,
        gain: Gain,
        multiple: int,
        spans: Sequence[RankedSpan] = (),
        *,
        strict: bool = False,
    ) -> None:
        self.ladders, self.spans = ladders, spans
        steps: list[Step] = []
        for index, ladder in enumerate(ladders):
            size, key, before = len(ladder.group), 0.0, len(ladder.group)
            for kept in _widths(ladder, multiple, strict=strict):
                if scope == "layer":
                    key = 1 - kept / size
                else:
                    cost = float(ladder.costs[size - before : size - kept].sum())
                    given = gain(ladder, before, kept)
                    # A step goes after those before it in its group.
                    key = max(key, cost / given if given > 0 else np.inf)
                steps.append(Step(index, kept, key))
                before = kept
        ranks = np.argsort(np.argsort([one.cost for one in spans], kind="stable"))
        for place, one in enumerate(spans):
            key = one.cost / one.gain if one.gain > 0 else np.inf
            if scope == "layer":
                key = float(ranks[place] + 1) / len(spans)
            steps.append(Step(len(ladders) + place, 0, key))
        self.steps = sorted(steps, key=lambda step: step.key)

    def widths(self, count: int) -> list[int]:
        """Units left in each group after the first `count` steps."""
        kept = self._sizes()
        for step in self.steps[:count]:
            kept[step.ladder] = min(kept[step.ladder], step.kept)
        return kept[: len(self.ladders)]

    def gone(self, count: int) -> list[Span]:
        """Blocks that go with the first `count` steps."""
        first = len(self.ladders)
        gone = sorted(step.ladder - first for step in self.steps[:count] if step.ladder >= first)
        return [self.spans[place].span for place in gone]

    def cost(self, count: int) -> float:
        """What the first `count` steps cost; units of a block that goes, too, count twice."""
        gone = {id(span) for span in self.gone(count)}
        blocks = sum(one.cost for one in self.spans if id(one.span) in gone)
        pairs = zip(self.ladders, self.widths(count), strict=True)
        units = sum(float(one.costs[: len(one.group) - kept].sum()) for one, kept in pairs)
        return blocks + units

    def without_last(self, count: int) -> Allocation | None:
        """The same with step `count` behind all others; None unless it is a block among units."""
        step = self.steps[count - 1] if count else None
        if step is None or step.ladder < len(self.ladders) or not self.ladders:
            return None
        other = copy.copy(self)
        other.steps = [*self.steps[: count - 1], *self.steps[count:], step]
        return other

    def left(self, count: int) -> float:
        """Share of all units that is left after the first `count` steps."""
        kept = sum(self.widths(count)) + len(self.spans) - len(self.gone(count))
        return kept / sum(self._sizes())

    def _sizes(self) -> list[int]:
        """Units of each group; a block counts as one."""
        return [len(ladder.group) for ladder in self.ladders] + [1] * len(self.spans)

    def removed(self, count: int, components: int) -> Mask:
        """The components that go with the first `count` steps."""
        gone = np.zeros(components, bool)
        for ladder, kept in zip(self.ladders, self.widths(count), strict=True):
            units = ladder.order[: len(ladder.group) - kept]
            gone[ladder.group.labels[units]] = True
        return gone

    def up_to(self, share: float) -> int:
        """Number of steps that remove this share of the units of every group, or a little less."""
        return sum(step.key <= share + 1e-9 for step in self.steps)

    def of_all(self, share: float) -> int:
        """Number of steps that remove this share of all units, or a little less."""
        left = self._sizes()
        total, gone = sum(left), 0
        for count, step in enumerate(self.steps):
            gone += left[step.ladder] - step.kept
            if gone > share * total + 1e-9:
                return count
            left[step.ladder] = step.kept
        return len(self.steps)


def _widths(ladder: Ladder, multiple: int, *, strict: bool) -> list[int]:
    """The widths that a group can have, from the largest below its own down to one step."""
    size = len(ladder.group)
    step = 1
    if ladder.group.kind != "head":
        while 2 * step <= multiple and size >= 2 * step * _FEWEST_STEPS:
            step *= 2
        if strict or size >= multiple * _FEWEST_STEPS:
            step = multiple
    return list(range((size - 1) // step * step, 0, -step))


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        count: Number of steps.
        share: What they leave, as measured.
        met: Whether that is close to what was asked for.
    """

    count: int
    share: float
    met: bool


def search(
    most: int,
    measure: Callable[[int], float],
    share: float,
    *,
    tolerance: float,
    attempts: int = 12,
) -> Found:
    """The number of steps after which a measured share is left.

    Args:
        most: Number of all steps.
        measure: What so many steps leave; falls with their number, up to noise.
        share: What is asked for.
        tolerance: How far below or above is close enough to stop; never above without need.
        attempts: Measurements.
    """
    if share >= 1:
        return Found(0, 1.0, True)
    low, high = 0, most
    least = measure(most)
    if least > share * (1 + tolerance):
        return Found(most, least, False)
    left, right = 1.0, least
    best = Found(most, least, True)
    for _ in range(attempts):
        if high - low <= 1:
            break
        # Between the secant and the middle: neither noise nor a bend stops it.
        slope = (left - share) / max(left - right, 1e-9)
        guess = low + (high - low) * (0.5 * min(max(slope, 0.0), 1.0) + 0.25)
        middle = min(max(round(guess), low + 1), high - 1)
        found = measure(middle)
        meets = found <= share * (1 + tolerance)
        if meets and abs(found - share) < abs(best.share - share):
            best = Found(middle, found, True)
        if abs(found - share) <= tolerance * share:
            break
        if found > share:
            low, left = middle, found
        else:
            high, right = middle, found
    return best

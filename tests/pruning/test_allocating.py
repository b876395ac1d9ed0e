"""Steps, their order, and the search for how many of them are taken."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.prunable import residual_cnn

from onnxopt.graph.axes.groups import find_groups
from onnxopt.graph.residuals import Span
from onnxopt.pruning.allocating import Allocation, search
from onnxopt.pruning.blocks import RankedSpan
from onnxopt.pruning.gains import unit_gain
from onnxopt.pruning.ladders import Ladder


def _ladder(costs: list[float]) -> Ladder:
    group = next(g for g in find_groups(residual_cnn()) if len(g) == len(costs))
    return Ladder(group, np.arange(len(costs)), np.array(costs), "l2")


def test_one_ranking_takes_the_cheap_group_first() -> None:
    cheap, dear = _ladder([0.01] * 8), _ladder([0.1] * 8)
    allocation = Allocation([dear, cheap], "global", unit_gain, 1)
    assert allocation.widths(7) == [8, 1]
    assert allocation.widths(len(allocation.steps)) == [1, 1]


def test_cost_is_of_the_blocks_and_units_that_go(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [RankedSpan(Span("block", ()), cost, 1.0) for cost in (0.3, 0.04, 0.5)]
    allocation = Allocation([_ladder([0.1] * 8)], "global", unit_gain, 1, spans)
    counts: list[int] = []
    gone = Allocation.gone

    def counted(self: Allocation, count: int) -> list[Span]:
        counts.append(count)
        return gone(self, count)

    monkeypatch.setattr(Allocation, "gone", counted)
    assert allocation.cost(0) == 0
    assert allocation.cost(1) == pytest.approx(0.04)
    assert allocation.cost(9) == pytest.approx(0.04 + 0.7 + 0.3)
    assert counts == [0, 1, 9]  # once each, however many blocks there are


def test_equal_shares_ignore_costs() -> None:
    allocation = Allocation([_ladder([0.01] * 8), _ladder([0.1] * 8)], "layer", unit_gain, 1)
    assert allocation.widths(allocation.up_to(0.5)) == [4, 4]


def test_steps_follow_one_another_when_costs_fall() -> None:
    allocation = Allocation([_ladder([0.9] + [0.01] * 7)], "global", unit_gain, 1)
    assert [step.kept for step in allocation.steps] == [7, 6, 5, 4, 3, 2, 1]


def test_small_groups_are_cut_more_finely_than_the_multiple() -> None:
    assert [s.kept for s in Allocation([_ladder([0.1] * 8)], "layer", unit_gain, 8).steps] == [
        *(7, 6, 5, 4, 3, 2, 1)
    ]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.93])
def test_search_finds_the_share_when_the_curve_bends(share: float) -> None:
    found = search(400, lambda count: 1 - 0.9 * (count / 400) ** 2, share, tolerance=0.01)
    assert found.met
    assert found.share == pytest.approx(share, rel=0.02)


def test_search_never_ends_above_the_target_when_steps_are_coarse() -> None:
    found = search(4, lambda count: (1.0, 0.8, 0.56, 0.4, 0.2)[count], 0.5, tolerance=0.01)
    assert found.met
    assert found.share == 0.4


def test_search_takes_nothing_away_when_everything_may_stay() -> None:
    found = search(4, lambda count: 1 - 0.2 * count, 1.0, tolerance=0.01)
    assert (found.count, found.share, found.met) == (0, 1.0, True)


def test_search_says_the_least_there_is_when_the_target_is_lower() -> None:
    found = search(10, lambda count: 1 - 0.05 * count, 0.3, tolerance=0.01)
    assert not found.met
    assert found.share == pytest.approx(0.5)

"""The guard's budget, by a clock that the test sets."""

from __future__ import annotations

import pytest

from onnxopt.runtime.guard.budget import Budget, BudgetSpentError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_time_inside_counts_and_nesting_counts_once() -> None:
    clock = Clock()
    budget = Budget(3.0, clock)
    clock.now = 100.0
    with budget.spending():
        clock.now += 1.0
        with budget.spending():
            clock.now += 1.0
        assert budget.spent == 2.0
    clock.now += 50.0
    assert budget.spent == 2.0
    budget.require()
    with budget.spending():
        clock.now += 1.0
        with pytest.raises(BudgetSpentError):
            budget.require()
    assert budget.exhausted


def test_nothing_may_be_spent_when_the_budget_is_zero() -> None:
    assert Budget(0.0, Clock()).exhausted

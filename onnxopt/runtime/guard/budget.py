"""How long the guard may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Clock = Callable[[], float]


class BudgetSpentError(Exception):
    """The guard's time is up; it falls back to the best state it knows."""


class Budget:
    """Seconds to spend, counted only inside `spending`.

    Args:
        seconds: How many there are.
        clock: Seconds that pass.

    Attributes:
        seconds: How many there were.
    """

    def __init__(self, seconds: float, clock: Clock = time.perf_counter) -> None:
        self.seconds = seconds
        self._clock = clock
        self._spent = 0.0
        self._since: float | None = None

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._spent + running

    @property
    def exhausted(self) -> bool:
        """True if nothing is left."""
        return self.spent >= self.seconds

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Counts the time inside; an inner context adds nothing to an outer one."""
        if self._since is not None:
            yield
            return
        self._since = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - self._since
            self._since = None

    def require(self, seconds: float = 0.0) -> None:
        """Stops what is going on if nothing, or not so much, is left.

        Args:
            seconds: What the next step will probably take.

        Raises:
            BudgetSpentError: Less is left.
        """
        spent = self.spent
        if spent >= self.seconds or spent + seconds > self.seconds:
            raise BudgetSpentError

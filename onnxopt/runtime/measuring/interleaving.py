"""Timing several callables in turns, so that whatever slows the machine down slows all of them.

A round gives each callable one turn, in a new random order: in a fixed or a rotating order each
would always run after the same neighbour, and in the caches that this one leaves.
A turn of a fast callable is a burst of runs, the first of which is not timed: it refills the caches
as running the model again and again does.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], float]
Call = Callable[[], object]

_WARM_UP_RUNS = 2
FEWEST_ROUNDS = 3
# A turn lasts about so long, and is one run if that is longer.
_TURN_SECONDS = 0.003
# Longer runs bring their own data into the caches.
_REFILL_SECONDS = 0.003
_MOST_RUNS_IN_A_TURN = 50


@dataclasses.dataclass(frozen=True)
class Timings:
    """Seconds per run.

    Attributes:
        rounds: The median of each turn, of shape [rounds, callables].
        runs: For each callable, all of its timed runs.
    """

    rounds: NDArray[np.float64]
    runs: tuple[NDArray[np.float64], ...]


def time_interleaved(
    calls: Sequence[Call],
    *,
    seconds: float,
    clock: Clock = time.perf_counter,
    fewest_rounds: int = FEWEST_ROUNDS,
    seed: int = 0,
    enough: Callable[[NDArray[np.float64]], bool] | None = None,
    longest: float = 1.0,
) -> Timings:
    """Runs callables in interleaved rounds and times them.

    Args:
        calls: What to time.
        seconds: How long the rounds go on, after the warm-up; a round once begun is finished.
        clock: Seconds that pass.
        fewest_rounds: Rounds that take place even if they take longer.
        seed: Seed of the order within rounds.
        enough: Asked with the rounds so far whenever `seconds` are over; if it says no, as many
            seconds are added. It should judge how exact the figures are, not what they say:
            to go on until there is a difference would find one.
        longest: Multiple of `seconds` at which rounds end in any case.
    """
    lengths = [_warm_up(call, clock) for call in calls]
    # One length for all: a turn's burst should not tell the fast from the slow.
    shortest = min(lengths)
    burst = int(min(max(1.0, _TURN_SECONDS / max(shortest, 1e-9)), _MOST_RUNS_IN_A_TURN))
    refill = shortest < _REFILL_SECONDS
    rng = np.random.default_rng(seed)
    rounds: list[list[float]] = []
    runs: list[list[float]] = [[] for _ in calls]
    start = clock()
    end, last = start + seconds, start + longest * seconds
    while True:
        if len(rounds) >= fewest_rounds and clock() >= end:
            if enough is None or end >= last or enough(np.array(rounds)):
                break
            end = min(end + seconds, last)
        row = [0.0] * len(calls)
        for index in rng.permutation(len(calls)):
            call = calls[index]
            if refill:
                call()
            turn = [_time(call, clock) for _ in range(burst)]
            runs[index] += turn
            row[index] = float(np.median(turn))
        rounds.append(row)
    return Timings(np.array(rounds), tuple(np.array(one) for one in runs))


def _warm_up(call: Call, clock: Clock) -> float:
    """Runs a callable until it is warm; returns the seconds of its last run."""
    for _ in range(_WARM_UP_RUNS):
        call()
    return _time(call, clock)


def _time(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start

"""Which of two models is faster, beyond what the machine's noise and its memory layout make."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.measuring.interleaving import Call, Clock, time_interleaved
from onnxopt.runtime.measuring.ratio import Ratio, Verdict, ratio_between

__all__ = ["Ratio", "Verdict", "paired_ratio"]


def paired_ratio(
    base: Call | Sequence[Call],
    other: Call | Sequence[Call],
    *,
    seconds: float,
    clock: Clock = time.perf_counter,
    fewest_rounds: int = 3,
    seed: int = 0,
    longest: float = 1.0,
) -> Ratio:
    """Times two models against each other in interleaved rounds.

    Args:
        base: Runs the base once; one callable for each session of its own. With three or more for
            each model the interval knows how much sessions differ; with fewer a spread of 2 % is
            assumed, so that only differences of more than about 7 % are proven.
        other: Runs the other model once; likewise.
        seconds: How long to measure, after a warm-up of three runs each.
        clock: Seconds that pass.
        fewest_rounds: Rounds that take place even if they take longer.
        seed: Seed of the order within rounds.
        longest: Multiple of `seconds` for which rounds may go on until the interval is narrow.

    Returns:
        How many times as fast `other` is as `base`, and in `verdict` what that proves.
    """
    first = [base] if callable(base) else list(base)
    second = [other] if callable(other) else list(other)
    count = len(first)
    columns = range(count), range(count, count + len(second))

    def enough(rounds: NDArray[np.float64]) -> bool:
        return ratio_between(rounds, *columns).is_narrow

    timings = time_interleaved(
        [*first, *second],
        seconds=seconds,
        clock=clock,
        fewest_rounds=fewest_rounds,
        seed=seed,
        enough=enough,
        longest=longest,
    )
    return ratio_between(timings.rounds, *columns)

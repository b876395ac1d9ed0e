"""Wall time of the phases of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def timed(seconds: dict[str, float], phase: str, *, without: Sequence[str] = ()) -> Iterator[None]:
    """Adds the time of the block to what a phase took so far, also if the block raises.

    Args:
        seconds: Phase to wall time, as reports have it.
        phase: The phase.
        without: Phases inside the block, which count for themselves.
    """

    def inside() -> float:
        return sum(seconds.get(other, 0.0) for other in without)

    start, inner = time.perf_counter(), inside()
    try:
        yield
    finally:
        took = time.perf_counter() - start - (inside() - inner)
        seconds[phase] = seconds.get(phase, 0.0) + took

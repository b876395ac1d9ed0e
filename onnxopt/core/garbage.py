"""Python's garbage collector, held back where it would cost more than it frees."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def patient_garbage_collector() -> Iterator[None]:
    """Looks for cyclic garbage rarely.

    A graph is hundreds of thousands of small objects that live until the end: walking them again
    and again costs a fifth of a run, and more than linearly in the size of the graph.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)

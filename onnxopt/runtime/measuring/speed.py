"""Timing two models against each other on the target, each in several fresh sessions."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from onnxopt.graph.cost import weight_bytes
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.benchmark import Ratio, paired_ratio
from onnxopt.runtime.session import CPU, Feeds, Session, open_session

# Where the weights lie in memory makes up to 5 % between two sessions of one model.
_SESSIONS = 3
# Each session holds its own packed weights: of large models there is one session each.
_LARGE_BYTES = 200_000_000
_SECONDS = 2.0
# What may go into opening sessions and into the rounds, as shares of the limit.
_SHARE = 0.25
# On a busy machine rounds go on, as those of `bench` do, if the limit allows for it.
_LONGEST, _LONGEST_SHARE = 4.0, 0.5
_FEWEST_SECONDS = 0.05
# Of each session in any case: warm-up and rounds.
_FEWEST_RUNS = 6
# Small inputs time the overhead of a run, but this long a run times the kernels in any case.
_LONG_RUN = 0.1


class Measure(Protocol):
    """Times a model against another, on one of several inputs, in about so many seconds."""

    def __call__(
        self, base: ir.Model, other: ir.Model, sets: Sequence[InputSet], limit: float
    ) -> Ratio:
        """How many times as fast `other` is as `base`."""
        ...


def measure_speed(
    base: ir.Model,
    other: ir.Model,
    sets: Sequence[InputSet],
    limit: float,
    *,
    threads: int | None = None,
    providers: Sequence[str] = CPU,
) -> Ratio:
    """How many times as fast `other` is as `base`.

    Args:
        base: What to compare with.
        other: What to judge.
        sets: Inputs that both run on; one is chosen.
        limit: About how many seconds it may take. Where sessions take long to open, or runs long,
            there is one of each model, which proves only differences of more than about 7 %.
        threads: Threads inside an operator; ONNX Runtime's choice by default.
        providers: Execution providers in order of preference.

    Raises:
        CannotRunError: One of them does not run.
    """

    def open_pair() -> tuple[Session, Session]:
        # Threads that spin between the turns of their session would slow down the others'.
        open_ = functools.partial(
            open_session, threads=threads, providers=providers, spinning=False
        )
        return open_(base), open_(other)

    start = time.perf_counter()
    pairs = [open_pair()]
    opening = time.perf_counter() - start
    feeds, run = _choose(pairs[0][0], sets)
    rounds = 2 * _SESSIONS * run * _FEWEST_RUNS
    is_quick = opening * (_SESSIONS - 1) <= limit * _SHARE and rounds <= limit
    if is_quick and weight_bytes(base) <= _LARGE_BYTES:
        pairs += [open_pair() for _ in range(_SESSIONS - 1)]
    first, second = (
        [functools.partial(one.run, feeds) for one in g] for g in zip(*pairs, strict=True)
    )
    seconds = max(min(_SECONDS, limit * _SHARE), _FEWEST_SECONDS)
    longest = max(min(_LONGEST, limit * _LONGEST_SHARE / seconds), 1.0)
    return paired_ratio(first, second, seconds=seconds, longest=longest)


def _choose(session: Session, sets: Sequence[InputSet]) -> tuple[Feeds, float]:
    """The largest inputs, unless already the smallest take long, and the seconds of a run."""
    by_size = sorted(sets, key=lambda s: sum(getattr(a, "size", 1) for a in s.feeds.values()))
    smallest, largest = by_size[0].feeds, by_size[-1].feeds
    session.run(smallest)
    start = time.perf_counter()
    session.run(smallest)
    seconds = time.perf_counter() - start
    if seconds > _LONG_RUN or largest is smallest:
        return smallest, seconds
    start = time.perf_counter()
    session.run(largest)
    return largest, time.perf_counter() - start

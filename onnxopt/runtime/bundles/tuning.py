"""Which session options are fastest here: a search by measurement that may end where it began.

One option after the other is tried on the best settings so far, in the order of what it usually
gains. A change is kept only if it is proven faster (see `ratio`), and at the end the settings found
are timed against the defaults once more, in sessions of their own: if that proves nothing, the
defaults stay. Options that change results (precision, flushing of denormals) are not tried.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import onnx_ir as ir

from onnxopt.runtime.binding import run_call
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.benchmark import paired_ratio
from onnxopt.runtime.measuring.interleaving import Call
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.session import Feeds
from onnxopt.runtime.session_settings import SessionSettings

# Fewer sessions cannot prove differences below 7 % (see `ratio`).
_SESSIONS = 3
_FINAL_SESSIONS = 5
_SECONDS = 1.0
_FINAL_SECONDS = 3.0
# Idle threads of one session would spin into the turn of the next one.
_TURNS = {"session.force_spinning_stop": "1"}

Timer = Callable[[SessionSettings, SessionSettings, int, float], Ratio]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One change that was tried: in words, how fast it was, and whether it was kept."""

    change: str
    ratio: str
    kept: bool


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What the search found.

    Attributes:
        settings: The settings to use.
        gain: How many times as fast they are as the defaults; None if the defaults stay.
        attempts: What was tried, in order.
        notes: What could not be tried, or was not proven in the end.
    """

    settings: SessionSettings
    gain: Ratio | None
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The record of the search."""
        return {
            "gain": None if self.gain is None else self.gain.to_dict(),
            "attempts": [dataclasses.asdict(attempt) for attempt in self.attempts],
            "notes": list(self.notes),
        }


def tune_session(
    model: Path | ir.Model,
    feeds: Feeds,
    base: SessionSettings,
    *,
    timer: Timer | None = None,
    changes: Iterable[Mapping[str, Any]] | None = None,
    limit: float = math.inf,
) -> Tuning:
    """Searches for faster settings of a model.

    Args:
        model: Its file, or the model in memory.
        feeds: What it is timed on.
        base: The settings to start with; threads that are given stay.
        timer: Times two settings; by default in ONNX Runtime.
        changes: What to try, each as the fields of the settings that change; optimizers to disable
            and options of the provider are added to those that are there. By default what usually
            gains most comes first.
        limit: Seconds after which nothing more is tried.
    """
    time = timer or _timer(model, feeds)
    end = perf_counter() + limit
    best, attempts, notes = base, [], []
    for change in _changes(base) if changes is None else changes:
        if perf_counter() > end:
            notes.append("not all session options were tried: the time for it is over")
            break
        candidate = _changed(best, change)
        if candidate == best:
            continue
        words = ", ".join(candidate.changes(best))
        try:
            ratio = time(best, candidate, _SESSIONS, _SECONDS)
        except CannotRunError as error:
            notes.append(f"{words}: not tried, {error.reason}")
            continue
        kept = ratio.verdict == "faster"
        attempts.append(Attempt(words, str(ratio), kept))
        best = candidate if kept else best
    if best == base:
        return Tuning(base, None, tuple(attempts), tuple(notes))
    final = time(base, best, _FINAL_SESSIONS, _FINAL_SECONDS)
    if final.verdict != "faster":
        notes.append(f"not proven against the defaults in the end ({final}): the defaults stay")
        return Tuning(base, None, tuple(attempts), tuple(notes))
    return Tuning(best, final, tuple(attempts), tuple(notes))


def _changed(settings: SessionSettings, change: Mapping[str, Any]) -> SessionSettings:
    disabled = (*settings.disabled_optimizers, *change.get("disabled_optimizers", ()))
    options = {**settings.provider_options, **change.get("provider_options", {})}
    added = {"disabled_optimizers": disabled, "provider_options": options}
    return dataclasses.replace(settings, **{**change, **added})


def _changes(base: SessionSettings) -> Iterator[dict[str, Any]]:
    cores = os.cpu_count() or 1
    if base.threads is None:
        # ONNX Runtime takes the physical cores; small models lose with them, large ones may gain
        # with all logical ones.
        for threads in dict.fromkeys((cores, max(1, cores // 2), max(1, cores // 4), 1)):
            yield {"threads": threads}
    for optimization in ("extended", "basic"):
        yield {"optimization": optimization}
    yield {"execution": "parallel"}
    yield {"spinning": False}
    yield {"arena": False}
    if base.provider == "cuda":
        yield {"provider_options": {"cudnn_conv_algo_search": "HEURISTIC"}}
        yield {"provider_options": {"prefer_nhwc": "1"}}


def turn_taking_call(model: Path | ir.Model, settings: SessionSettings, feeds: Feeds) -> Call:
    """A run of a new session of a model, whose threads rest while others run."""
    taking_turns = dataclasses.replace(settings, config={**settings.config, **_TURNS})
    return run_call(taking_turns.open(model), feeds, device=settings.provider)


def _timer(model: Path | ir.Model, feeds: Feeds) -> Timer:
    def time(base: SessionSettings, other: SessionSettings, sessions: int, seconds: float) -> Ratio:
        first, second = (
            [turn_taking_call(model, one, feeds) for _ in range(sessions)] for one in (base, other)
        )
        return paired_ratio(first, second, seconds=seconds, longest=4.0)

    return time

"""The smallest set of nodes that has to stay in float32, by halving.

What the ranges of values do not show (a difference of large numbers, a long sum) shows in the
outputs. Two binary searches find a run of neighbours that suffices: rounding that an early node
needs spared is not spared by a late one alone. From it, parts are given back to half precision as
long as the outputs stay within the tolerance: what is left is small, if not always the smallest
set there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.diagnosis.probing import as_declared
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import open_session

Outputs = Sequence[Mapping[str, Any]]


def outputs_of(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a model computes.

    Raises:
        CannotRunError: ONNX Runtime refuses it.
    """
    session = open_session(model, spinning=False)
    return [session.run(as_declared(session, one)) for one in feeds]


def error_of(
    model: ir.Model,
    feeds: Sequence[Mapping[str, Any]],
    wanted: Outputs,
    *,
    enough: float = math.inf,
    smallest: float = 0.0,
) -> float:
    """The `relative_error` of a model's outputs.

    Args:
        model: What to run.
        feeds: Input sets.
        wanted: Outputs for each.
        enough: What is beyond this needs no further runs.
        smallest: As for `relative_error`.

    Raises:
        CannotRunError: ONNX Runtime refuses it.
    """
    session = open_session(model, spinning=False)
    worst = 0.0
    for one, outputs in zip(feeds, wanted, strict=True):
        found = session.run(as_declared(session, one))
        worst = max(worst, relative_error([outputs], [found], smallest=smallest))
        if worst > enough:
            break
    return worst


def relative_error(wanted: Outputs, found: Outputs, *, smallest: float = 0.0) -> float:
    """Largest relative root mean square over outputs and sets; infinite if a NaN came up.

    Args:
        wanted: Outputs for each set.
        found: Those to judge.
        smallest: Entries that differ by no more count as equal. What a type cannot hold is noise,
            and an output that is almost zero everywhere would be judged by nothing else.
    """
    worst = 0.0
    for one, other in zip(wanted, found, strict=True):
        for name, array in one.items():
            if getattr(array, "dtype", np.dtype(bool)).kind not in "fV":
                continue
            a, b = (np.asarray(x).astype(np.float64) for x in (array, other[name]))
            usable = np.isfinite(a)
            if not np.isfinite(b[usable]).all():
                return float("inf")
            size = float(np.linalg.norm(a[usable]))
            differences = np.abs(a[usable] - b[usable])
            difference = float(np.linalg.norm(differences[differences > smallest]))
            worst = max(worst, difference / size if size else difference)
    return worst


def find_float32(
    nodes: Sequence[str],
    passes: Callable[[Sequence[str]], bool],
    *,
    tries: int = 32,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[str], bool]:
    """The nodes to keep in float32, and whether no fewer would do.

    Args:
        nodes: All that could be half, in topological order.
        passes: Whether the model is good enough if these stay in float32. True of all of them.
        tries: How often to ask.
        seconds: How long to ask; what has passed by then is returned.
        clock: Seconds that pass.
    """
    search = _Search(passes, tries, seconds, clock)
    try:
        search.shorten(list(nodes))
        search.halve()
    except _SpentError:
        return search.kept, False
    return search.kept, True


class _SpentError(Exception):
    """No tries or no seconds are left."""


class _Search:
    """The smallest set that has passed, and what may still be asked."""

    def __init__(
        self,
        passes: Callable[[Sequence[str]], bool],
        tries: int,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.kept: list[str] = []
        self._passes, self._tries, self._clock = passes, tries, clock
        self._now = clock()
        self._end, self._taken = self._now + seconds, 0.0

    def _try(self, kept: list[str]) -> bool:
        if not self._tries or self._now + self._taken >= self._end:
            raise _SpentError
        self._tries -= 1
        good = self._passes(kept)
        now = self._clock()
        self._now, self._taken = now, now - self._now  # the next one will take about as long
        if good:
            self.kept = kept
        return good

    def shorten(self, nodes: list[str]) -> None:
        """To a run of neighbours, by two binary searches: for its end, then for its start."""
        self.kept = nodes
        fails, works = 0, len(nodes)
        while works - fails > 1:
            middle = (fails + works) // 2
            fails, works = (fails, middle) if self._try(nodes[:middle]) else (middle, works)
        rest = nodes[:works]
        works, fails = 0, len(rest)
        while fails - works > 1:
            middle = (fails + works) // 2
            fails, works = (fails, middle) if self._try(rest[middle:]) else (middle, works)

    def halve(self) -> None:
        """Without parts of what is left, smaller and smaller ones."""
        parts = 2
        while self.kept:
            size = -(-len(self.kept) // parts)
            kept = self.kept
            if any(
                self._try(kept[:start] + kept[start + size :])
                for start in range(0, len(kept), size)
            ):
                parts = max(2, parts - 1)
            elif size == 1:
                break
            else:
                parts = min(len(kept), 2 * parts)


__all__ = ["CannotRunError", "error_of", "find_float32", "outputs_of", "relative_error"]

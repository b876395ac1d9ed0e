"""Running a model on planned inputs, and looking for sizes that it runs at.

Many models bake a size in: a batch of 1 in a Reshape, 512 samples, 224 pixels. When the sizes that
are wanted fail, a ladder of usual ones is tried, those named in ONNX Runtime's message first.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from onnxopt.runtime.axes import AxisKind
from onnxopt.runtime.inputs import InputPlan, InputSet
from onnxopt.runtime.session import CannotRunError, Session

_LADDER = (1, 2, 8, 16, 32, 64, 128, 224, 256, 320, 384, 416, 480, 512, 640, 1024, 1536, 4096, 16000)
_NUMBER = re.compile(r"(?<![\w.])\d{1,5}(?![\w.])")
_LARGEST_HINT = 20000
_MOST_ATTEMPTS = 80
_MOST_SECONDS = 20.0
# Once the runs took this long, no further ones are started.
_ENOUGH_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Trials:
    """What a model computed on several inputs.

    Attributes:
        sets: The inputs that it runs on.
        outputs: For each of them, output name to result.
        notes: What was found out about the sizes it runs at.
    """

    sets: tuple[InputSet, ...]
    outputs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def run_sets(session: Session, sets: Sequence[InputSet]) -> Trials:
    """Runs a model on given inputs.

    Raises:
        CannotRunError: It does not run on one of them.
    """
    outputs = []
    for one in sets:
        try:
            outputs.append(session.run(one.feeds))
        except CannotRunError as error:
            raise CannotRunError(f"at {one.description}: {error.reason}") from error
    return Trials(tuple(sets), tuple(outputs), ())


def run_plan(session: Session, plan: InputPlan) -> Trials:
    """Runs a model on planned inputs at sizes that it accepts.

    Args:
        session: The model.
        plan: How to make its inputs.

    Returns:
        At least one run.

    Raises:
        CannotRunError: No inputs can be made, or it runs at no size that was tried.
    """
    if plan.refusal:
        raise CannotRunError(plan.refusal)
    search = _Search(session, plan)
    start = time.perf_counter()
    for run in range(plan.sets):
        if run and time.perf_counter() - start > _ENOUGH_SECONDS:
            break
        search.add_run(run)
    return Trials(tuple(search.sets), tuple(search.outputs), tuple(search.notes()))


class _Search:
    """The runs so far, and which sizes failed."""

    def __init__(self, session: Session, plan: InputPlan) -> None:
        self.session = session
        self.plan = plan
        self.groups = _groups(plan)
        self.sets: list[InputSet] = []
        self.outputs: list[dict[str, Any]] = []
        self.refused: dict[AxisKind, set[int]] = {}
        self.hints: list[int] = []
        self.first_failure = ""
        self.attempts = 0
        self.deadline = time.perf_counter() + _MOST_SECONDS

    def add_run(self, run: int) -> None:
        """Adds a run, at the wanted sizes or at others; none if only known sizes work."""
        wanted = self.plan.wanted(run)
        if self._attempt(wanted, run):
            return
        alike = self.plan.wanted(run, alike=True)
        if alike != wanted and self._attempt(alike, run):
            return
        if self.sets:
            self._vary_what_works(run)
            return
        tried = {_key(wanted), _key(alike)}
        for sizes in self._ladder(alike):
            if _key(sizes) in tried:
                continue
            tried.add(_key(sizes))
            if self.attempts >= _MOST_ATTEMPTS or time.perf_counter() > self.deadline:
                break
            if self._attempt(sizes, run):
                return
        raise CannotRunError(f"at {self.plan.build(wanted, run).description}: {self.first_failure}")

    def notes(self) -> Iterator[str]:
        """The dimensions that run at one size only, although others were tried."""
        for kind, symbols in self.groups.items():
            if not self.refused.get(kind):
                continue
            worked = sorted({one.sizes[symbol] for one in self.sets for symbol in symbols[:1]})
            ran = " and ".join(map(str, worked))
            failed = ", ".join(map(str, sorted(self.refused[kind] - set(worked))))
            if failed:
                yield f"{kind} runs at {ran}, not at {failed}"

    def _vary_what_works(self, run: int) -> None:
        """From sizes that work, varies one group at a time, keeping what goes well."""
        base = dict(self.sets[0].sizes)
        wanted = self.plan.wanted(run, alike=True)
        for kind, symbols in self.groups.items():
            if len(self.refused.get(kind, ())) > 1:
                continue
            changed = self.plan.complete({**base, **{s: wanted[s] for s in symbols}})
            if changed == base:
                continue
            if self._attempt(changed, run):
                return
            self.refused.setdefault(kind, set()).add(changed[symbols[0]])

    def _ladder(self, wanted: dict[str, int]) -> Iterator[dict[str, int]]:
        """Other sizes for a first run: the batch alone, one group, all groups alike."""
        batch = self.groups.get("batch", [])
        others = {kind: symbols for kind, symbols in self.groups.items() if kind != "batch"}
        bases = [wanted]
        if batch:
            yield from (self._with(wanted, batch, size) for size in (2, *self.hints))
        for base in bases:
            for symbols in others.values():
                for size in self._sizes():
                    yield self._with(base, symbols, size)
            if len(others) > 1:
                every = [symbol for symbols in others.values() for symbol in symbols]
                for size in self._sizes():
                    yield self._with(base, every, size)

    def _sizes(self) -> Iterator[int]:
        yielded: set[int] = set()
        # New hints come in while the ladder is climbed.
        position = 0
        while position < len(self.hints):
            yield self.hints[position]
            yielded.add(self.hints[position])
            position += 1
        yield from (size for size in _LADDER if size not in yielded)

    def _with(self, base: dict[str, int], symbols: Sequence[str], size: int) -> dict[str, int]:
        return self.plan.complete({**base, **dict.fromkeys(symbols, size)})

    def _attempt(self, sizes: dict[str, int], run: int) -> bool:
        self.attempts += 1
        one = self.plan.build(sizes, run)
        try:
            outputs = self.session.run(one.feeds)
        except CannotRunError as error:
            self.first_failure = self.first_failure or error.reason
            numbers = (int(text) for text in _NUMBER.findall(error.reason))
            self.hints += [
                n for n in dict.fromkeys(numbers) if 1 < n <= _LARGEST_HINT and n not in self.hints
            ]
            if not self.sets:
                self._remember(sizes)
            return False
        self.sets.append(one)
        self.outputs.append(outputs)
        return True

    def _remember(self, sizes: dict[str, int]) -> None:
        # While nothing works, the wanted sizes are suspects; notes() drops those that worked.
        for kind, symbols in self.groups.items():
            if self.attempts == 1:
                self.refused.setdefault(kind, set()).add(sizes[symbols[0]])


def _groups(plan: InputPlan) -> dict[AxisKind, list[str]]:
    """Free symbols by meaning."""
    groups: dict[AxisKind, list[str]] = {}
    for symbol, kind in plan.free.items():
        groups.setdefault(kind, []).append(symbol)
    return groups


def _key(sizes: dict[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(sizes.items()))

"""Running a model on planned inputs, and looking for sizes that it runs at.

Many models bake a size in: a batch of 1 in a Reshape, 512 samples, 224 pixels. When the sizes that
are wanted fail, a ladder of usual ones is tried, those named in ONNX Runtime's message first.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxopt.runtime.inputs.axes import AxisKind
from onnxopt.runtime.inputs.filling import Variant
from onnxopt.runtime.inputs.plan import InputPlan, InputSet
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.spooling import Spool
from onnxopt.runtime.session import Session

# Usual sizes first. Where the wanted ones fail they are mostly too small: audio windows, images.
_LADDERS: Mapping[AxisKind, tuple[int, ...]] = {
    "sequence": (512, 256, 128, 1024, 64, 32, 16, 4096, 16000, 384, 1, 2, 4, 224, 10, 100),
    "height": (224, 256, 320, 416, 640, 384, 512, 48, 32, 736, 1024, 28, 1),
    "past": (1, 8, 16, 32, 64, 128),
}
# Sizes that follow from one that works.
_MULTIPLES = (2.0, 1.5, 3.0, 0.5)
_NUMBER = re.compile(r"(?<![\w.])\d{1,5}(?![\w.])")
_LARGEST_HINT = 20000
_MOST_HINTS = 6
_MOST_ATTEMPTS = 80
_MOST_SECONDS = 20.0
# A second run is not started if the first took this long, a third not if both took so long.
_LONG_RUN_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Trials:
    """What a model computed on several inputs.

    Attributes:
        sets: The inputs that it runs on.
        outputs: For each of them, output name to result.
        notes: What was found out about the sizes it runs at.
        seconds: How long the runs took.
    """

    sets: tuple[InputSet, ...]
    outputs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def run_sets(session: Session, sets: Sequence[InputSet]) -> Trials:
    """Runs a model on given inputs.

    Raises:
        CannotRunError: It does not run on one of them.
    """
    start = time.perf_counter()
    outputs = []
    for one in sets:
        try:
            outputs.append(session.run(one.feeds))
        except CannotRunError as error:
            raise CannotRunError(f"at {one.description}: {error.reason}") from error
    return Trials(tuple(sets), tuple(outputs), seconds=time.perf_counter() - start)


def run_plan(session: Session, plan: InputPlan, spool: Spool | None = None) -> Trials:
    """Runs a model on planned inputs at sizes that it accepts.

    Args:
        session: The model.
        plan: How to make its inputs.
        spool: Takes the results, so that large ones are not all in memory; the trials have none.

    Returns:
        At least one run.

    Raises:
        CannotRunError: No inputs can be made, or it runs at no size that was tried.
    """
    if plan.refusal:
        raise CannotRunError(plan.refusal)
    search = _Search(session, plan, [] if spool is None else spool)
    for run in range(plan.sets):
        if search.seconds > _LONG_RUN_SECONDS:
            search.skipped = plan.sets - run
            break
        search.add_run(run)
    outputs = () if isinstance(search.outputs, Spool) else tuple(search.outputs)
    return Trials(tuple(search.sets), outputs, tuple(search.notes()), search.seconds)


class _Search:
    """The runs so far, and which sizes failed.

    Attributes:
        sets: Inputs of the runs.
        outputs: Their results.
        seconds: How long they took.
        skipped: Runs left out because they take long.
    """

    def __init__(
        self, session: Session, plan: InputPlan, outputs: list[dict[str, Any]] | Spool
    ) -> None:
        self.sets: list[InputSet] = []
        self.outputs = outputs
        self.seconds = 0.0
        self.skipped = 0
        self._session = session
        self._plan = plan
        self._groups = _groups(plan)
        self._refused: dict[AxisKind, set[int]] = {}
        self._hints: list[int] = []
        self._first_failure = ""
        self._variants: tuple[Variant, ...] = ("", *plan.variants)
        self._nan_kept = False
        self._attempts = 0
        self._deadline = time.perf_counter() + _MOST_SECONDS

    def add_run(self, run: int) -> None:
        """Adds a run, at the wanted sizes or at others; none if only known sizes work."""
        wanted, alike = self._plan.wanted(run), self._plan.wanted(run, alike=True)
        if self._attempt(wanted, run) or (alike != wanted and self._attempt(alike, run)):
            return
        candidates = self._variations(alike) if self.sets else self._ladder(alike)
        tried = {_key(wanted), _key(alike), *(_key(one.sizes) for one in self.sets)}
        for sizes in candidates:
            if _key(sizes) in tried:
                continue
            if self._attempts >= _MOST_ATTEMPTS or time.perf_counter() > self._deadline:
                break
            tried.add(_key(sizes))
            if self._attempt(sizes, run):
                return
        if not self.sets:
            description = self._plan.build(wanted, run).description
            raise CannotRunError(f"at {description}: {self._first_failure}")

    def notes(self) -> Iterator[str]:
        """Dimensions that run at one size only, although others were tried; runs left out."""
        for kind, symbols in self._groups.items():
            worked = {one.sizes[symbols[0]] for one in self.sets}
            failed = sorted(self._refused.get(kind, set()) - worked)
            if failed and len(worked) == 1:
                yield f"{kind} runs at {worked.pop()} only, not at {', '.join(map(str, failed))}"
        if self.skipped:
            yield f"{self.skipped} of {self._plan.sets} input sets left out: runs take long"

    def _variations(self, wanted: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """Sizes near those that work: those that no run had yet first."""
        base = dict(self.sets[0].sizes)
        choices: list[list[dict[str, int]]] = []
        for symbols in self._groups.values():
            changed = [{s: wanted[s] for s in symbols}]
            if symbols != self._groups.get("batch"):
                changed += [{s: int(base[s] * factor) for s in symbols} for factor in _MULTIPLES]
            choices.append([*changed, {s: base[s] for s in symbols}])
        everything = [
            self._plan.complete(base | {s: size for part in picked for s, size in part.items()})
            for picked in itertools.product(*choices)
        ]
        used = {
            kind: {one.sizes[symbols[0]] for one in self.sets}
            for kind, symbols in self._groups.items()
        }

        def repeated(sizes: Mapping[str, int]) -> int:
            return sum(sizes[self._groups[kind][0]] in used[kind] for kind in used)

        yield from sorted(everything, key=repeated)

    def _ladder(self, wanted: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """Other sizes for a first run: one group at a time, then all that are no batch alike."""
        batch = self._groups.get("batch", [])
        others = {kind: symbols for kind, symbols in self._groups.items() if kind != "batch"}
        for size in (2, *self._hints):
            yield self._with(wanted, batch, size)
        for kind, symbols in others.items():
            for size in self._sizes(kind):
                yield self._with(wanted, symbols, size)
        if len(others) > 1:
            every = [symbol for symbols in others.values() for symbol in symbols]
            for size in self._sizes("height" if "height" in others else "sequence"):
                yield self._with(wanted, every, size)

    def _sizes(self, kind: AxisKind) -> Iterator[int]:
        # New hints come in while the ladder is climbed.
        for position in itertools.count():
            if position >= len(self._hints):
                break
            yield self._hints[position]
        yield from _LADDERS["height" if kind == "width" else kind]

    def _with(self, base: Mapping[str, int], symbols: Sequence[str], size: int) -> dict[str, int]:
        return self._plan.complete({**base, **dict.fromkeys(symbols, size)})

    def _attempt(self, sizes: Mapping[str, int], run: int) -> bool:
        """Runs the model; filled in another way if it fails otherwise, or if it gives NaN."""
        self._attempts += 1
        ran: list[tuple[int, InputSet, dict[str, Any]]] = []
        for variant in self._variants:
            try:
                one = self._plan.build(sizes, run, variant)
                start = time.perf_counter()
                outputs = self._session.run(one.feeds)
            except CannotRunError as error:
                self._first_failure = self._first_failure or error.reason
                self._learn(error.reason, sizes)
                continue
            self.seconds += time.perf_counter() - start
            ran.append((_count_nan(outputs), one, outputs))
            if not ran[-1][0]:
                break
        if not ran:
            return False
        best = min(ran, key=lambda one: one[0])
        kept = [best]
        if ran[0][0] and not self._nan_kept:
            # Where NaN comes up is worth a comparison as well.
            self._nan_kept = True
            kept += [] if best is ran[0] else [ran[0]]
            if best[0]:
                self._variants = self._variants[:1]  # no other way helps
        for _, one, outputs in kept:
            self.sets.append(one)
            self.outputs.append(outputs)
        return True

    def _learn(self, reason: str, sizes: Mapping[str, int]) -> None:
        numbers = dict.fromkeys(int(text) for text in _NUMBER.findall(reason))
        # A message also names the sizes it was given, and numbers that come of them.
        known = {*sizes.values(), *self._hints, 0, 1}
        new = [n for n in numbers if n not in known and n <= _LARGEST_HINT]
        self._hints += new[: _MOST_HINTS - len(self._hints)]
        for kind, symbols in self._groups.items():
            self._refused.setdefault(kind, set()).add(sizes[symbols[0]])


def _count_nan(outputs: Mapping[str, Any]) -> int:
    return sum(
        int(np.isnan(array).sum())
        for array in outputs.values()
        if isinstance(array, np.ndarray) and array.dtype.kind in "fc"
    )


def _groups(plan: InputPlan) -> dict[AxisKind, list[str]]:
    """Free symbols by meaning."""
    groups: dict[AxisKind, list[str]] = {}
    for symbol, kind in plan.free.items():
        groups.setdefault(kind, []).append(symbol)
    return groups


def _key(sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(sizes.items()))

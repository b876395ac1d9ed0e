"""Whether the differences between two models' outputs are rounding or a fault.

1. An output within the floor of its type passes; nothing else is computed then.
2. Else the original is run again in other ways (without ONNX Runtime's optimizations, on one
   thread, with inputs shaken by a rounding), and a multiple of what it differs from itself by is
   its tolerance.
3. A quantized model can differ from itself by much: ONNX Runtime's 8-bit kernels saturate on
   some CPUs. So what passes only thanks to such noise is compared once more without these kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.comparison import Difference, compare
from onnxopt.runtime.inputs import InputSet
from onnxopt.runtime.parity_result import OutputParity
from onnxopt.runtime.session import CannotRunError, Feeds, ModelSource, Optimization, Session
from onnxopt.runtime.tolerance import (
    QUANTIZED_FLOOR,
    Tolerance,
    above_noise,
    floor,
    is_quantized,
)
from onnxopt.runtime.trials import Trials, run_sets

Open = Callable[..., Session]

# How much inputs are shaken to see what roundings grow to: two units in the last place of float32.
_SHAKE = 2.4e-7
# If the runs of the original took longer, its noise is measured on the first of them only.
_LONG_SECONDS = 1.0
# What the user should hear of: a difference between ONNX Runtime's own levels, a wide tolerance.
_WORTH_A_NOTE = 0.01


class Judge:
    """Judges one pair of models.

    Args:
        original: The reference.
        optimized: What became of it.
        graph: The original's graph, if it can be read.
        open_: Opens a session of a model, with an optimization level and a number of threads.
        optimization: The level that both were run at.

    Attributes:
        notes: What was found out about the original on the way.
    """

    def __init__(
        self,
        original: ModelSource,
        optimized: ModelSource,
        graph: ir.Model | None,
        open_: Open,
        optimization: Optimization,
    ) -> None:
        self.notes: list[str] = []
        self._original = original
        self._optimized = optimized
        self._graph = graph
        self._open = open_
        self._optimization = optimization

    def outputs(
        self, reference: Trials, result: Trials, skipped: Mapping[str, str]
    ) -> list[OutputParity]:
        """The verdict on every output that is not skipped."""
        base = floor(self._graph)
        names = [name for name in reference.outputs[0] if name not in skipped]
        differences = differences_of(reference, result, names)
        judged = [_judged(name, differences[name], base, None) for name in names]
        if not any(output.complaint for output in judged):
            return judged
        first = _first_runs(reference)
        plain: Trials | None = None
        noise: dict[str, Difference] = {}
        for optimization, other in self._other_runs(first):
            found = differences_of(first, other, names)
            noise = {name: found[name].merge(noise.get(name, found[name])) for name in names}
            if optimization == "disabled":
                plain = other
                self._note_own_difference(found)
            judged = [_judged(name, differences[name], base, noise[name]) for name in names]
            if not any(output.complaint for output in judged):
                break
        if any(output.complaint for output in judged):
            return judged
        if plain is not None and is_quantized(self._graph):
            judged = self._judged_without_kernels(judged, plain)
        self._note_wide_tolerances(judged)
        return judged

    def _other_runs(self, first: Trials) -> Iterator[tuple[Optimization, Trials]]:
        """The original computed in other ways."""
        ways: tuple[tuple[Optimization, dict[str, int], Sequence[InputSet]], ...] = (
            ("disabled", {}, first.sets),
            (self._optimization, {"threads": 1}, first.sets),
            (self._optimization, {"threads": 1}, _shaken_sets(first.sets)),
        )
        for optimization, settings, sets in ways:
            try:
                session = self._open(self._original, optimization, **settings)
                yield optimization, run_sets(session, sets)
            except CannotRunError:
                continue  # some models load at one level only

    def _judged_without_kernels(
        self, judged: list[OutputParity], plain: Trials
    ) -> list[OutputParity]:
        """Compares a quantized model without ONNX Runtime's fused 8-bit kernels as well."""
        names = [output.name for output in judged]
        try:
            result = run_sets(self._open(self._optimized, "disabled"), plain.sets)
            shaken = run_sets(self._open(self._original, "disabled"), _shaken_sets(plain.sets))
        except CannotRunError:
            return judged
        differences = differences_of(plain, result, names)
        noise = differences_of(plain, shaken, names)
        verdicts = []
        for output in judged:
            name = output.name
            again = _judged(name, differences[name], QUANTIZED_FLOOR, noise[name])
            if again.complaint:
                reason = f"{again.complaint}, without ONNX Runtime's optimizations"
                output = dataclasses.replace(again, complaint=reason)
            verdicts.append(output)
        return verdicts

    def _note_own_difference(self, found: Mapping[str, Difference]) -> None:
        for name, difference in found.items():
            if difference.rms > _WORTH_A_NOTE:
                self.notes.append(
                    f"{name}: the original itself differs by {difference.rms:.0%} between ONNX "
                    "Runtime's optimization levels"
                )

    def _note_wide_tolerances(self, judged: Sequence[OutputParity]) -> None:
        self.notes += [
            f"{output.name}: its tolerance is {output.tolerance.rms:.0%}, because roundings grow "
            "so far in the original; small faults would not show"
            for output in judged
            if not output.complaint and output.tolerance.rms > _WORTH_A_NOTE
        ]


def differences_of(reference: Trials, other: Trials, names: Sequence[str]) -> dict[str, Difference]:
    """The worst difference of each output over all runs."""
    found: dict[str, Difference] = {}
    for one, two in zip(reference.outputs, other.outputs, strict=True):
        for name in names:
            difference = compare(one[name], two[name])
            found[name] = found[name].merge(difference) if name in found else difference
    return found


def _judged(
    name: str, difference: Difference, base: Tolerance, noise: Difference | None
) -> OutputParity:
    tolerance = base if noise is None else above_noise(base, noise)
    complaint = tolerance.complaint(difference)
    if noise is not None and noise.broken and complaint == difference.broken:
        complaint = ""  # the original's own shape or NaNs change with the roundings
    return OutputParity(name, difference, tolerance, noise, complaint)


def _first_runs(trials: Trials) -> Trials:
    """The runs to repeat."""
    if trials.seconds <= _LONG_SECONDS:
        return trials
    return dataclasses.replace(trials, sets=trials.sets[:1], outputs=trials.outputs[:1])


def _shaken_sets(sets: Sequence[InputSet]) -> list[InputSet]:
    return [dataclasses.replace(one, feeds=_shaken(one.feeds)) for one in sets]


def _shaken(feeds: Feeds) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shaken = dict(feeds)
    for name, array in feeds.items():
        if isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64):
            factor = 1 + _SHAKE * rng.choice([-1.0, 1.0], size=array.shape)
            shaken[name] = (array * factor).astype(array.dtype)
    return shaken

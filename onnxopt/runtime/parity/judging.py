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
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxopt.runtime.inputs.trials import Trials, run_sets
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.noise import NoiseRuns, Open, differences_of, shaken_sets
from onnxopt.runtime.parity.result import OutputParity
from onnxopt.runtime.parity.tolerance import (
    QUANTIZED_FLOOR,
    Tolerance,
    above_noise,
    floor,
    is_quantized,
)
from onnxopt.runtime.session import ModelSource

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
        noise: The original in other ways; shared by all checks against one original.

    Attributes:
        notes: What was found out about the original on the way.
    """

    def __init__(
        self,
        original: ModelSource,
        optimized: ModelSource,
        graph: ir.Model | None,
        open_: Open,
        noise: NoiseRuns,
    ) -> None:
        self.notes: list[str] = []
        self._original = original
        self._optimized = optimized
        self._graph = graph
        self._open = open_
        self._noise = noise

    def outputs(
        self, reference: Trials, result: Trials, skipped: Mapping[str, str]
    ) -> list[OutputParity]:
        """The verdict on every output that is not skipped."""
        names = [name for name in reference.outputs[0] if name not in skipped]
        return self.verdicts(differences_of(reference, result, names), first_runs(reference))

    def verdicts(
        self, differences: Mapping[str, Difference], first: Trials, *, always_measure: bool = False
    ) -> list[OutputParity]:
        """The verdict on differences that were found.

        Args:
            differences: Output name to the worst difference.
            first: Runs of the original to measure its noise on.
            always_measure: Measure the noise also where no output needs it.
        """
        base = floor(self._graph)
        names = list(differences)
        self._note_nan(differences)
        judged = [_judged(name, differences[name], base, None) for name in names]
        if not (always_measure or any(output.complaint for output in judged)):
            return judged
        plain: Trials | None = None
        noise: dict[str, Difference] = {}
        for run in self._noise.against(first, names):
            found = run.differences
            noise = {name: found[name].merge(noise.get(name, found[name])) for name in names}
            if run.plain is not None:
                plain = run.plain
                self._note_own_difference(found)
            judged = [_judged(name, differences[name], base, noise[name]) for name in names]
            if not (always_measure or any(output.complaint for output in judged)):
                break
        if any(output.complaint for output in judged):
            return judged
        if plain is not None and is_quantized(self._graph):
            judged = self._judged_without_kernels(judged, plain)
        self._note_wide_tolerances(judged)
        return judged

    def _judged_without_kernels(
        self, judged: list[OutputParity], plain: Trials
    ) -> list[OutputParity]:
        """Compares a quantized model without ONNX Runtime's fused 8-bit kernels as well."""
        names = [output.name for output in judged]
        try:
            result = run_sets(self._open(self._optimized, "disabled"), plain.sets)
            shaken = run_sets(self._open(self._original, "disabled"), shaken_sets(plain.sets))
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

    def _note_nan(self, differences: Mapping[str, Difference]) -> None:
        for name, found in differences.items():
            if found.nan:
                share = f"{found.nan} of its {found.elements} entries"
                what = "nothing but NaN" if found.nan == found.elements else f"NaN in {share}"
                self.notes.append(
                    f"{name}: the original gives {what}; of these only the places are compared"
                )

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


def _judged(
    name: str, difference: Difference, base: Tolerance, noise: Difference | None
) -> OutputParity:
    tolerance = base if noise is None else above_noise(base, noise)
    complaint = tolerance.complaint(difference)
    excused = "" if noise is None else _breakage(noise.broken)
    if excused and excused == _breakage(difference.broken):
        # The original's own shape or NaNs change with the roundings as well; the rest is judged.
        complaint = tolerance.complaint(dataclasses.replace(difference, broken=""))
    return OutputParity(name, difference, tolerance, noise, complaint)


def _breakage(broken: str) -> str:
    """What is broken, without the figures."""
    return next((kind for kind in ("NaN", "infinit", "shape") if kind in broken), broken)


def first_runs(trials: Trials) -> Trials:
    """The runs to repeat."""
    if trials.seconds <= _LONG_SECONDS:
        return trials
    return dataclasses.replace(trials, sets=trials.sets[:1], outputs=trials.outputs[:1])

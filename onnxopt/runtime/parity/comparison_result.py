"""What a comparison of two models found, as data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.result import OutputParity


@dataclasses.dataclass(frozen=True)
class SetDifference:
    """How far an output is from its reference on one set of inputs.

    Attributes:
        inputs: The inputs in words.
        difference: The difference.
    """

    inputs: str
    difference: Difference


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """One output on all input sets.

    Attributes:
        parity: The worst difference, what it may be, the noise of the first model, the verdict.
        sets: Every input set by itself.
        mask: The input whose padding is left out; empty if all positions are compared.
    """

    parity: OutputParity
    sets: tuple[SetDifference, ...]
    mask: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.parity.to_dict(),
            "sqnr_db": finite(sqnr(self.parity.difference)),
            "agreement": agreement(self.parity.difference),
            "without_padding_of": self.mask or None,
            "sets": [
                {
                    "inputs": one.inputs,
                    **dataclasses.asdict(one.difference),
                    "sqnr_db": finite(sqnr(one.difference)),
                    "agreement": agreement(one.difference),
                }
                for one in self.sets
            ],
        }


@dataclasses.dataclass(frozen=True)
class Score:
    """Both models against labels.

    Attributes:
        metric: Its name.
        first: Score of the first model.
        second: Score of the second.
    """

    metric: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """The second less the first."""
        return self.second - self.first

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "difference": self.difference}


@dataclasses.dataclass(frozen=True)
class ComparisonResult:
    """The outcome of a comparison.

    Attributes:
        status: "passed" if the models are at parity, else "failed".
        reasons: Why not, worst first.
        outputs: Figures of each output.
        inputs: What the models were run on, in words.
        scores: Both models against labels.
        notes: What was found out on the way.
        seconds: How long it took.
    """

    status: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    outputs: tuple[OutputComparison, ...]
    inputs: tuple[str, ...]
    scores: tuple[Score, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """True at parity."""
        return self.status == "passed"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "outputs": [output.to_dict() for output in self.outputs],
            "inputs": list(self.inputs),
            "scores": [score.to_dict() for score in self.scores],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def sqnr(difference: Difference) -> float:
    """Signal to quantization noise ratio in decibels; infinite for equal results."""
    return math.inf if difference.rms == 0 else -20 * math.log10(difference.rms)


def agreement(difference: Difference) -> float | None:
    """Share of rows with the same top entry, or of equal integers, booleans and texts."""
    return difference.top1 if difference.kind == "float" else 1 - difference.mismatches


def finite(number: float) -> float | None:
    """The number, or None for what JSON has no number for."""
    return number if math.isfinite(number) else None

"""How many times as fast one model is as another, with an interval that a new run would respect.

Two sessions of one model differ by up to 5 %: where their weights lie in memory and which cores
their threads get is decided once, on load. Thousands of runs of one session do not average that
out. So the sessions, not the runs, are the sample: every session gives one figure (the median over
rounds of its time relative to all others in the same round), and the interval is Welch's t interval
of the two groups of figures, in logarithms. It holds for as few as two sessions each, where a
bootstrap that resamples them is too narrow by half.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["faster", "slower", "no difference"]

# A smaller difference is not worth a verdict: alignment of code and data alone makes that much.
RESOLUTION = 0.01
# On a busy machine rounds go on until an interval reaches no further to each side.
_WANTED_WIDTH = 0.03
# Standard deviation of sessions of one model, where too few are there to tell (see
# docs/measuring.md), and from how many on they do.
_ASSUMED_SPREAD = 0.02
_ENOUGH_SESSIONS = 3
# Quantiles of Student's t for a two-sided 95 % interval, by degrees of freedom.
_FREEDOM = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 1e9)
_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.086, 2.042, 2.000, 1.960),
)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times as fast a model is as its base; above 1 is faster.

    Attributes:
        median: The ratio of the latencies, base by other.
        low: Lower end of its 95 % interval.
        high: Upper end.
        rounds: Number of interleaved rounds that it comes from.
    """

    median: float
    low: float
    high: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """What the interval proves about the other model, beyond the resolution of 1 %."""
        if self.low > 1 + RESOLUTION:
            return "faster"
        if self.high < 1 / (1 + RESOLUTION):
            return "slower"
        return "no difference"

    @property
    def is_narrow(self) -> bool:
        """True if more rounds would not make much of a difference."""
        return self.high / self.low < 1 + 2 * _WANTED_WIDTH

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    def __str__(self) -> str:
        """As "1.23x (95 %: 1.20 to 1.26)"."""
        return f"{self.median:.3f}x (95 %: {self.low:.3f} to {self.high:.3f})"


def ratio_between(times: NDArray[np.float64], base: Sequence[int], other: Sequence[int]) -> Ratio:
    """The ratio of two models that took part in the same rounds.

    Args:
        times: Seconds, of shape [rounds, sessions].
        base: Columns of the base's sessions.
        other: Columns of the other model's sessions.
    """
    logs = np.log(np.maximum(times, 1e-9))
    # What a whole round has in common (frequency, neighbours) hits every session in it alike.
    common = (np.median(logs[:, base], axis=1) + np.median(logs[:, other], axis=1)) / 2
    relative = logs - common[:, None]
    figures = np.median(relative, axis=0)
    errors = _median_errors(relative, figures)
    first, second = figures[list(base)], figures[list(other)]
    center = float(first.mean() - second.mean())
    if min(len(first), len(second)) >= _ENOUGH_SESSIONS:
        variances = [float(group.var(ddof=1)) / len(group) for group in (first, second)]
        freedom = _welch_freedom(variances, (len(first), len(second)))
    else:
        variances = [
            float(np.mean(errors[list(group)] ** 2) + _ASSUMED_SPREAD**2) / len(group)
            for group in (base, other)
        ]
        freedom = max(1.0, len(times) - 1.0)
    width = student_quantile(freedom) * math.sqrt(sum(variances))
    return Ratio(math.exp(center), math.exp(center - width), math.exp(center + width), len(times))


def student_quantile(freedom: float) -> float:
    """The factor of a two-sided 95 % interval (Student's t), interpolated in 1 / freedom."""
    inverse = [1 / value for value in reversed(_FREEDOM)]
    return float(np.interp(1 / freedom, inverse, list(reversed(_QUANTILES))))


def _median_errors(
    relative: NDArray[np.float64], figures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard error of each session's median, by the median absolute deviation (1.4826 MAD)."""
    deviation = 1.4826 * np.median(np.abs(relative - figures), axis=0)
    errors: NDArray[np.float64] = math.sqrt(math.pi / 2) * deviation / math.sqrt(len(relative))
    return errors


def _welch_freedom(variances: Sequence[float], sizes: Sequence[int]) -> float:
    """Degrees of freedom after Welch and Satterthwaite."""
    total = sum(variances)
    parts = sum(v**2 / (size - 1) for v, size in zip(variances, sizes, strict=True))
    return total**2 / parts if parts > 0 else float(sum(sizes) - 2)

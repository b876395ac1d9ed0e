"""The figures that say how far an output is from its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from onnxopt.runtime.parity.slice_errors import merged


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an output is from its reference.

    Attributes:
        kind: "float", "integer", "boolean" or "text"; of a sequence, that of its items.
        largest: Largest absolute error; for integers the largest step.
        relative: Largest error relative to the larger of the element and the output's scale, which
            is its largest entry, outliers such as -1e9 left out.
        rms: Root mean square of the error relative to that of the reference, outliers left out.
        gain: How much larger or smaller the result is as a whole: an error in common, such as a
            wrong scale, while errors of rounding cancel out.
        cosine: Cosine of the angle between both; 1 for equal ones.
        mismatches: Share of entries that differ at all.
        elements: Number of entries compared.
        rows: Number of rows along a last axis that may be classes.
        flips: How many of them have their largest entry at another place.
        slices: Largest error of a column, channel or row relative to its own size, by order of
            magnitude of that size.
        nan: Number of entries that are NaN in the reference.
        broken: What makes both incomparable (shape, type, NaN, infinity); empty if nothing does.
    """

    kind: str
    largest: float = 0.0
    relative: float = 0.0
    rms: float = 0.0
    gain: float = 0.0
    cosine: float = 1.0
    mismatches: float = 0.0
    elements: int = 0
    rows: int = 0
    flips: int = 0
    slices: Mapping[int, float] = dataclasses.field(default_factory=dict)
    nan: int = 0
    broken: str = ""

    @property
    def top1(self) -> float | None:
        """Share of rows whose largest entry is at the same place; None without such rows."""
        return 1 - self.flips / self.rows if self.rows else None

    def merge(self, other: Difference) -> Difference:
        """The worse of both, for several runs or the items of a sequence."""
        elements = self.elements + other.elements
        wrong = self.mismatches * self.elements + other.mismatches * other.elements
        return Difference(
            self.kind if self.elements or not other.elements else other.kind,
            max(self.largest, other.largest),
            max(self.relative, other.relative),
            max(self.rms, other.rms),
            max(self.gain, other.gain),
            min(self.cosine, other.cosine),
            wrong / elements if elements else 0.0,
            elements,
            self.rows + other.rows,
            self.flips + other.flips,
            merged(self.slices, other.slices),
            self.nan + other.nan,
            self.broken or other.broken,
        )

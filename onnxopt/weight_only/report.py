"""What quantizing weights did, weight by weight."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxopt.core.passes import Refusal


@dataclasses.dataclass(frozen=True)
class WeightRecord:
    """One weight.

    Attributes:
        name: Of the initializer.
        operator: "product" or "lookup".
        shape: Rows and columns.
        bits: Per weight, without scales and zero points.
        block_size: Weights that share a scale; 0 for a whole channel.
        algorithm: What chose the integers.
        relative_error: Root mean square of the error over that of the weight (of the scaled
            weight with AWQ); None if the weight was never computed.
        bytes_before: Of the float weight.
        bytes_after: Of integers, scales and zero points.
    """

    name: str
    operator: str
    shape: tuple[int, int]
    bits: int
    block_size: int
    algorithm: str
    relative_error: float | None
    bytes_before: int
    bytes_after: int


@dataclasses.dataclass(kw_only=True)
class WeightReport:
    """All weights of a model.

    Attributes:
        source: Where the model came from; "" for a model in memory.
        output: Where it was written; "" if it was not.
        weights: What was quantized.
        refusals: What was left alone, with the reasons.
        bytes_before: Of all weights of the model, quantized or not.
        bytes_after: The same afterwards.
        seconds: Phase to wall time.
        notes: What the user should read.
    """

    source: str = ""
    output: str = ""
    weights: list[WeightRecord] = dataclasses.field(default_factory=list)
    refusals: list[Refusal] = dataclasses.field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return dataclasses.asdict(self)

    def to_text(self, *, verbose: bool = False) -> str:
        """The report for people.

        Args:
            verbose: Every weight, not only the ten with the largest error.
        """
        before, after = self.bytes_before / 1e6, self.bytes_after / 1e6
        lines = [f"weights  {before:,.2f} MB -> {after:,.2f} MB"]
        if self.weights:
            lines += ["", "bits  block  error   MB before  MB after  weight"]
        ranked = sorted(self.weights, key=lambda w: -(w.relative_error or 0))
        for one in ranked if verbose else ranked[:10]:
            error = "     -" if one.relative_error is None else f"{one.relative_error:6.2%}"
            lines.append(
                f"{one.bits:>4}  {one.block_size:>5}  {error}  {one.bytes_before / 1e6:>9,.2f}  "
                f"{one.bytes_after / 1e6:>8,.2f}  {one.name} ({one.algorithm})"
            )
        if len(ranked) > 10 and not verbose:
            lines.append(f"and {len(ranked) - 10} more with smaller errors (-v shows them)")
        if self.refusals:
            lines += ["", f"left alone ({len(self.refusals)}):"]
            lines += [f"  {r.node}: {r.reason}" for r in self.refusals[: None if verbose else 10]]
        lines += [f"note: {note}" for note in self.notes]
        if self.seconds:
            phases = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.seconds.items())
            lines += ["", f"time: {phases}"]
        if self.output:
            lines.append(f"wrote {self.output}")
        return "\n".join(lines)

"""What training did."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RecoveryReport:
    """The record of one `recover` run.

    Attributes:
        parameters: Numbers that were trained.
        samples: Input sets trained on.
        held_out: Input sets that errors were measured on.
        before: Mean square error of the outputs relative to their variance, on held-out samples.
        errors: The same after every epoch.
        chosen: The epoch that was kept, from 1 on; 0 if none was better than before.
        is_apart: False if there were too few samples to measure on others than those trained on.
        left_out: Steps that were not taken since their gradients were not finite.
        source: The file that was trained; "" for a model in memory.
        output: The file written; "" if none.
        notes: What the user should know.
    """

    parameters: int
    samples: int
    held_out: int
    before: float
    errors: tuple[float, ...]
    chosen: int
    is_apart: bool = True
    left_out: int = 0
    source: str = ""
    output: str = ""
    notes: tuple[str, ...] = ()

    @property
    def after(self) -> float:
        """Error of what was kept."""
        return self.errors[self.chosen - 1] if self.chosen else self.before

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self) | {"after": self.after}

    def to_text(self, *, verbose: bool = False) -> str:
        """For people.

        Args:
            verbose: The error after every epoch.
        """
        kept = f"epoch {self.chosen} of {len(self.errors)}" if self.chosen else "nothing was better"
        on = f"{self.held_out} others" if self.is_apart else "the same, too few to keep some apart"
        lines = [
            f"{self.parameters:,} parameters trained on {self.samples} input sets: mean square "
            f"error of the outputs, relative to their variance, {self.before:.3%} -> "
            f"{self.after:.3%} on {on} ({kept})"
        ]
        if self.left_out:
            steps = self.samples * len(self.errors)
            lines.append(f"{self.left_out} of {steps} steps left out: gradients were not finite")
        if verbose:
            lines += [f"  epoch {n}: {error:.3%}" for n, error in enumerate(self.errors, 1)]
        lines += [f"note: {note}" for note in self.notes]
        if self.output:
            lines.append(f"written: {self.output}")
        return "\n".join(lines)

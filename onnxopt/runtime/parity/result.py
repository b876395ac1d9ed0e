"""The outcome of a parity check, as figures, as plain data and as a line of text."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.tolerance import Tolerance
from onnxopt.runtime.session import Feeds

Status = Literal["passed", "failed", "not-run"]


@dataclasses.dataclass(frozen=True)
class OutputParity:
    """One output over all runs.

    Attributes:
        name: Its name.
        difference: The largest differences.
        tolerance: What they may be.
        noise: What the original differs from itself by; None if it was not needed.
        complaint: Why it fails; empty if it passes.
    """

    name: str
    difference: Difference
    tolerance: Tolerance
    noise: Difference | None
    complaint: str

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "name": self.name,
            "passed": not self.complaint,
            **dataclasses.asdict(self.difference),
            "tolerance": dataclasses.asdict(self.tolerance),
            "noise": None if self.noise is None else dataclasses.asdict(self.noise),
            "complaint": self.complaint,
        }


@dataclasses.dataclass(frozen=True)
class ParityResult:
    """The outcome of a parity check.

    Attributes:
        status: "passed", "failed", or "not-run" if the original cannot be run or compared.
        reasons: Why it failed or did not run, worst first.
        outputs: Figures of each output.
        inputs: What the models were run on, in words.
        notes: What was found out on the way, as sizes that the original does not run at.
        seconds: How long it took.
        feeds: Inputs of the first run, to run the model again.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    outputs: tuple[OutputParity, ...] = ()
    inputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    feeds: Feeds = dataclasses.field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, without the arrays."""
        return {
            "status": self.status,
            "reasons": list(self.reasons),
            "outputs": [output.to_dict() for output in self.outputs],
            "inputs": list(self.inputs),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """One line: the status and its most telling figure or reason."""
        if self.status != "passed":
            return f"parity {self.status}: {self.reasons[0]}"
        floats = [output for output in self.outputs if output.difference.kind == "float"]
        if not floats:
            return f"parity passed on {len(self.inputs)} input sets: equal"
        worst = max(floats, key=lambda o: o.difference.relative / o.tolerance.relative)
        # Far above the usual 1e-5, because the original differs from itself by as much.
        source = "" if worst.noise is None else ", from the original's own noise"
        return (
            f"parity passed on {len(self.inputs)} input sets: largest relative error "
            f"{worst.difference.relative:.1e} (tolerance {worst.tolerance.relative:.1e}{source})"
        )

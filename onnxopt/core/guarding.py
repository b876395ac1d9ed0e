"""What the guard did, as data: what it undid and why, and what that cost."""

from __future__ import annotations

import dataclasses
from typing import Any

_NODES_SHOWN = 3
_PASSES_SHOWN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Undone:
    """Rewrites that were undone.

    Attributes:
        passes: The pass; several only where a group is undone as a whole.
        rule: The rule of the pass; "" for the whole pass, and for passes without rules.
        nodes: Names of the nodes at the roots of the rewrites; empty for all of the pass.
        reason: What was wrong.
    """

    passes: tuple[str, ...]
    rule: str = ""
    nodes: tuple[str, ...] = ()
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain data."""
        return {
            "passes": list(self.passes),
            "rule": self.rule,
            "nodes": list(self.nodes),
            "reason": self.reason,
        }

    def __str__(self) -> str:
        """As "pass X rule Y at node Z: output 'o': relative error 0.03 over 1e-05"."""
        label = "pass" if len(self.passes) == 1 else "passes"
        text = f"{label} {_listed(self.passes, _PASSES_SHOWN)}"
        if self.rule and (self.rule,) != self.passes:
            text += f" rule {self.rule}"
        if self.nodes:
            label = "node" if len(self.nodes) == 1 else "nodes"
            text += f" at {label} {_listed(self.nodes, _NODES_SHOWN)}"
        return f"{text}: {self.reason}"


@dataclasses.dataclass(kw_only=True)
class GuardRecord:
    """One run of the guard.

    Attributes:
        mode: "parity" or "full".
        budget: Seconds that it might spend.
        seconds: Seconds that it spent on checks, timings and attempts.
        checks: Parity runs.
        timings: Latency measurements.
        attempts: Runs of a group of passes, or of part of it, beyond the first one.
        undone: What it undid.
        exhausted: Whether the budget ran out.
        speed: How many times as fast the result is as the input; None if that was not measured.
    """

    mode: str
    budget: float
    seconds: float = 0.0
    checks: int = 0
    timings: int = 0
    attempts: int = 0
    undone: list[Undone] = dataclasses.field(default_factory=list)
    exhausted: bool = False
    speed: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data."""
        return {
            "mode": self.mode,
            "budget": self.budget,
            "seconds": round(self.seconds, 3),
            "checks": self.checks,
            "timings": self.timings,
            "attempts": self.attempts,
            "undone": [entry.to_dict() for entry in self.undone],
            "exhausted": self.exhausted,
            "speed": self.speed,
        }

    def lines(self) -> list[str]:
        """The record for people: nothing for a parity run that found nothing."""
        lines = [f"undone: {entry}" for entry in self.undone]
        if self.speed is not None:
            lines.append(
                f"speed {self.speed['median']:.2f}x of the input's (95 %: {self.speed['low']:.2f} "
                f"to {self.speed['high']:.2f}): {self.speed['verdict']}"
            )
        if self.undone or self.mode == "full":
            spent = ", the budget ran out" if self.exhausted else ""
            lines.append(
                f"guard: {_counted(self.checks, 'parity run')}, "
                f"{_counted(self.timings, 'timing')}, {_counted(self.attempts, 'attempt')} "
                f"in {self.seconds:.1f} s of {self.budget:g} s{spent}"
            )
        return lines


def _listed(names: tuple[str, ...], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

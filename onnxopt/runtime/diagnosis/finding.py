"""What a diagnosis found: values along the graph, the nodes at fault, the verdict."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.result import OutputParity

Status = Literal["same", "within", "different"]
_SHOWN = 5
_NODES_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Point:
    """A value that both models compute.

    Attributes:
        value: Its name in the second model.
        node: The node that makes it there, as "Add '/layer.0/Add'".
        position: Place of that node in the graph.
        total: How far the second model's value is from the original's.
        own: How far it is if the inputs are the original's; None where that was not computed.
        tolerance: What `own` may be, as root mean square.
        excess: How many times more `own` is than tolerated.
    """

    value: str
    node: str
    position: int
    total: Difference | None
    own: Difference | None = None
    tolerance: float = 0.0
    excess: float = 0.0


@dataclasses.dataclass(frozen=True)
class Finding:
    """A part of the second model that adds an error of its own.

    Attributes:
        point: The value in which it shows.
        nodes: Names of the nodes between it and the nearest values that both models have.
        labels: The same nodes for people, with their operators.
        original: Labels of the original's nodes in their place.
        rules: Rules that made the nodes.
        causes: What is different there, as far as can be said.
        inherited: Root mean square of the largest error that comes in with its inputs.
        inside: The control flow around it, outermost first, as "If 'gate', then_branch".
    """

    point: Point
    nodes: tuple[str, ...]
    labels: tuple[str, ...]
    original: tuple[str, ...]
    rules: tuple[str, ...]
    causes: tuple[str, ...]
    inherited: float
    inside: tuple[str, ...] = ()

    @property
    def at_fault(self) -> bool:
        """True if the error is larger than is usual."""
        return self.point.excess > 1

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "value": self.point.value,
            "node": self.point.node,
            "inside": list(self.inside),
            "at_fault": self.at_fault,
            "nodes": list(self.nodes),
            "original_nodes": list(self.original),
            "rules": list(self.rules),
            "causes": list(self.causes),
            "own": _figures(self.point.own),
            "total": _figures(self.point.total),
            "tolerance": self.point.tolerance,
            "inherited": self.inherited,
        }

    def lines(self) -> list[str]:
        """The finding for people."""
        own, total = self.point.own, self.point.total
        lines = [f"{self.point.node}  (value {self.point.value!r})"]
        lines += [f"    inside {place}" for place in self.inside]
        if own is not None:
            lines.append(
                f"    own error {_amount(own)}, inherited {self.inherited:.1e}, "
                f"in all {_amount(total)} (tolerance {self.point.tolerance:.1e})"
            )
        lines += [f"    cause: {cause}" for cause in self.causes]
        if len(self.labels) > 1:
            lines.append(f"    nodes: {_listed(self.labels)}")
        if self.rules:
            lines.append(f"    made by {', '.join(self.rules)} from {_listed(self.original)}")
        return lines


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Where one model starts to differ from another.

    Attributes:
        status: "same" if no output differs by more than the noise, "within" if none by more than
            the budget for errors.
        reason: The worst difference of an output, in words.
        outputs: Figures of each output.
        findings: Parts with an error of their own, worst first.
        points: Values along the graph that were looked at, in order.
        values: How many values both models have.
        inputs: What they were run on.
        notes: What the user should know.
        seconds: How long it took.
        conversion: What the model was converted to, as "float16" or "8 bits"; else empty.
        budget: Relative root mean square that errors of outputs may have; None for the noise.
    """

    status: Status
    reason: str
    outputs: tuple[OutputParity, ...]
    findings: tuple[Finding, ...] = ()
    points: tuple[Point, ...] = ()
    values: int = 0
    inputs: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    conversion: str = ""
    budget: float | None = None

    @property
    def exit_code(self) -> int:
        """0 for models that agree, 3 for models that do not."""
        return 3 if self.status == "different" else 0

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        what = f" ({self.conversion})" if self.conversion else ""
        words = {"same": "no difference: ", "within": f"within the budget{what}: "}
        return words.get(self.status, "") + self.reason

    @property
    def title(self) -> str:
        """What the findings are; empty if there are none."""
        if not self.findings:
            return ""
        if any(finding.at_fault for finding in self.findings):
            return "Nodes with an error of their own"
        return "No node is at fault; those with the largest error of their own"

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON-ready data."""
        return {
            "status": self.status,
            "reason": self.reason,
            "conversion": self.conversion,
            "budget": self.budget,
            "outputs": [output.to_dict() for output in self.outputs],
            "findings": [finding.to_dict() for finding in self.findings],
            "points": [
                {
                    "value": point.value,
                    "node": point.node,
                    "position": point.position,
                    "total": _figures(point.total),
                    "own": _figures(point.own),
                    "tolerance": point.tolerance,
                }
                for point in self.points
            ],
            "paired_values": self.values,
            "inputs": self.inputs,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """The diagnosis for people.

        Args:
            verbose: All findings, and the error of every value that was looked at.
        """
        lines = [self.headline]
        shown = self.findings if verbose else self.findings[:_SHOWN]
        if self.values:
            lines.append(f"on {self.inputs}; {self.values} values are in both models")
        if shown:
            lines += ["", f"{self.title}:"]
        for number, finding in enumerate(shown, 1):
            head, *rest = finding.lines()
            lines += ["", f"{number}. {head}", *rest]
        if len(self.findings) > len(shown):
            lines += ["", f"{len(self.findings) - len(shown)} more (-v)"]
        if verbose and self.points:
            lines += ["", "own error  in all      value"]
            lines += [f"{_amount(p.own):<10} {_amount(p.total):<10} {p.value}" for p in self.points]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _amount(found: Difference | None) -> str:
    if found is None:
        return "-"
    if found.broken:
        return found.broken
    return f"{found.rms:.1e}" if found.kind == "float" else f"{found.mismatches:.1%}"


def _figures(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)


def _listed(labels: tuple[str, ...]) -> str:
    more = len(labels) - _NODES_SHOWN
    return ", ".join(labels[:_NODES_SHOWN]) + (f" and {more} more" if more > 0 else "")

"""`Report`: what a run did, as data. It renders itself as text or JSON and owns the exit code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from onnxopt.core.guarding import GuardRecord
from onnxopt.core.passes import Refusal

_REASONS_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassRecord:
    """One run of one pass.

    Attributes:
        name: The pass with its options.
        rewrites: Rule name to the number of applications.
        refusals: What was matched and left alone.
        seconds: Wall time of the pass.
        nodes_before: Nodes in all graphs before the pass, or before the group that it ran in.
        nodes_after: Nodes in all graphs after it.
    """

    name: str
    rewrites: Counter[str]
    refusals: list[Refusal]
    seconds: float
    nodes_before: int
    nodes_after: int

    @property
    def modified(self) -> bool:
        """True if the pass changed the model."""
        return bool(self.rewrites)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model weighs: nodes in all its graphs, and bytes of its weights."""

    nodes: int
    weight_bytes: int


class Part(Protocol):
    """A report of something that `optimize` did besides; `output` is the file that was written."""

    output: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        ...

    def to_text(self, *, verbose: bool = False) -> str:
        """For people."""
        ...


@dataclasses.dataclass(kw_only=True)
class Report:
    """The record of one `optimize` run.

    Attributes:
        source: Where the model came from; "" for a model in memory.
        output: Where it was written; "" if it was not.
        records: One entry per pass run, in order.
        before: Size of the input.
        after: Size of the result.
        seconds: Phase ("load", "passes", "parity", "save") to wall time.
        target: What the model was optimized for, in words.
        parity: What the parity run found; None if it was off.
        guard: What the guard undid, and its cost; None if it was off.
        session: Session options to load the result with, as measured; None if not measured.
        placement: Nodes by device and copies between devices; None unless counted on CUDA.
        pruning: What pruning did before all else; None if it was not asked for.
        quantization: What quantizing did; None if it was not asked for.
        notes: Sentences that the user should read (operators left alone, what was not run).
        given_up: True if pruning cost more than was allowed, so that nothing was written.
    """

    source: str = ""
    output: str = ""
    records: list[PassRecord] = dataclasses.field(default_factory=list)
    before: ModelSize = ModelSize(nodes=0, weight_bytes=0)
    after: ModelSize = ModelSize(nodes=0, weight_bytes=0)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    target: str = ""
    parity: dict[str, Any] | None = None
    guard: GuardRecord | None = None
    session: dict[str, Any] | None = None
    placement: dict[str, Any] | None = None
    pruning: Part | None = None
    quantization: Part | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    given_up: bool = False

    @property
    def exit_code(self) -> int:
        """0 if the result can be used, 3 if it is not at parity with the input."""
        failed = self.parity is not None and self.parity.get("status") == "failed"
        return 3 if failed or self.given_up else 0

    def merged(self) -> list[PassRecord]:
        """One record per pass: a pass that ran several times is summed, in first-run order.

        Refusals are those of the last run, the only ones that still stand.
        """
        merged: dict[str, PassRecord] = {}
        for record in self.records:
            previous = merged.get(record.name)
            if previous is None:
                merged[record.name] = record
                continue
            merged[record.name] = dataclasses.replace(
                record,
                rewrites=previous.rewrites + record.rewrites,
                seconds=previous.seconds + record.seconds,
                nodes_before=previous.nodes_before,
            )
        return list(merged.values())

    def refusals(self) -> dict[tuple[str, str, str], list[str]]:
        """(pass, rule, reason) to the names of the nodes concerned.

        Of a pass that ran with several options only its last run counts: what an earlier one left
        alone is refused again by then, or rewritten.
        """
        grouped: dict[tuple[str, str, str], list[str]] = {}
        last = {record.name.partition("{")[0]: record for record in self.records}
        for record in last.values():
            for refusal in record.refusals:
                key = (record.name, refusal.rule, refusal.reason)
                grouped.setdefault(key, []).append(refusal.node)
        return grouped

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {
            "source": self.source,
            "output": self.output,
            "nodes": {"before": self.before.nodes, "after": self.after.nodes},
            "weight_bytes": {"before": self.before.weight_bytes, "after": self.after.weight_bytes},
            "seconds": {phase: round(value, 4) for phase, value in self.seconds.items()},
            "passes": [
                {
                    "name": record.name,
                    "rewrites": dict(record.rewrites),
                    "seconds": round(record.seconds, 4),
                    "nodes_before": record.nodes_before,
                    "nodes_after": record.nodes_after,
                }
                for record in self.merged()
            ],
            "refusals": [
                {"pass": pass_, "rule": rule, "reason": reason, "nodes": nodes}
                for (pass_, rule, reason), nodes in self.refusals().items()
            ],
            "target": self.target,
            "parity": self.parity,
            "guard": None if self.guard is None else self.guard.to_dict(),
            "session": self.session,
            "placement": self.placement,
            "pruning": None if self.pruning is None else self.pruning.to_dict(),
            "quantization": None if self.quantization is None else self.quantization.to_dict(),
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """The report for people.

        Args:
            verbose: List every refusal with its nodes, and the passes that changed nothing.
        """
        lines = [] if self.pruning is None else [self.pruning.to_text(verbose=verbose), ""]
        lines += [
            f"nodes    {self.before.nodes:>12,} -> {self.after.nodes:,}",
            f"weights  {_megabytes(self.before.weight_bytes):>12} -> "
            f"{_megabytes(self.after.weight_bytes)}",
        ]
        lines += ["", *_table(self.merged(), verbose)]
        refusals = self.refusals()
        if refusals:
            lines += ["", f"left alone ({sum(map(len, refusals.values()))}):"]
            lines += _refusal_lines(refusals, verbose)
        if self.parity is not None and self.parity.get("summary"):
            lines += ["", str(self.parity["summary"])]
        if self.guard is not None:
            lines += self.guard.lines()
        if self.session is not None:
            lines.append(f"session options: {self.session['summary']}")
        lines += [f"note: {note}" for note in self.notes]
        if self.seconds:
            phases = ", ".join(f"{phase} {value:.2f} s" for phase, value in self.seconds.items())
            lines += ["", f"time: {phases}"]
        if self.quantization is not None:
            return "\n".join([*lines, "", self.quantization.to_text(verbose=verbose)])
        if self.output:
            lines.append(f"wrote {self.output}")
        return "\n".join(lines)


def _table(records: Sequence[PassRecord], verbose: bool) -> list[str]:
    shown = [record for record in records if verbose or record.modified]
    if not shown:
        return ["nothing to do: no pass found anything to rewrite"]
    width = max(len(record.name) for record in shown)
    lines = [f"{'pass':<{width}}  rewrites  seconds"]
    for record in shown:
        count = sum(record.rewrites.values())
        lines.append(f"{record.name:<{width}}  {count:>8,}  {record.seconds:>7.2f}")
        if verbose and len(record.rewrites) > 1:
            lines += [
                f"{'':<{width}}    {n:>6,} {rule}" for rule, n in record.rewrites.most_common()
            ]
    return lines


def _refusal_lines(refusals: dict[tuple[str, str, str], list[str]], verbose: bool) -> list[str]:
    lines = []
    for (pass_, rule, reason), nodes in refusals.items():
        limit = len(nodes) if verbose else _REASONS_SHOWN
        names = ", ".join(repr(name) for name in nodes[:limit] if name)
        more = f" and {len(nodes) - limit} more" if len(nodes) > limit else ""
        where = f" ({names}{more})" if names else ""
        label = pass_ if rule in ("", pass_) else f"{pass_}/{rule}"
        lines.append(f"  {len(nodes):>5,} x {label}: {reason}{where}")
    return lines


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"

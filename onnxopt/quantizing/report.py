"""What a quantization came to, as data, text and JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxopt.core.report import Report


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One form that was tried.

    Attributes:
        name: The form, and how its ranges were chosen.
        nodes: Number of nodes quantized.
        error: Largest error of an output relative to its scale; None if it does not run.
        cosine: Smallest cosine of an output.
        speed: How many times as fast as float; None if not timed.
        interval: 95 % interval of the speed.
        excluded: Nodes left in float to meet the budget.
        verdict: "chosen", or why not.
        score: Its mean score by the metric, if there is one.
    """

    name: str
    nodes: int
    error: float | None
    cosine: float | None
    speed: float | None
    interval: tuple[float, float] | None
    excluded: tuple[str, ...]
    verdict: str
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far a form's outputs are from the float ones.

    Attributes:
        error: Largest error relative to the output's scale.
        typical: Root mean square error relative to the output's, mean over input sets.
        cosine: Smallest cosine.
    """

    error: float
    typical: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class RepairEntry:
    """An accuracy repair that was tried.

    Attributes:
        form: Kind of the form that it was tried on.
        repair: Its name.
        before: The errors without it.
        after: With it; None if it does not run or changes nothing.
        verdict: "kept", or why not.
    """

    form: str
    repair: str
    before: Errors | None
    after: Errors | None
    verdict: str


@dataclasses.dataclass(frozen=True)
class Allowance:
    """A form that is faster than the result and only over the budget of error.

    Attributes:
        form: Its name.
        speed: How many times as fast as float.
        error: Its largest error.
        needed: The options that would let it pass, with the least that they have to allow.
    """

    form: str
    speed: float
    error: float
    needed: Mapping[str, float]

    def __str__(self) -> str:
        options = " ".join(f"{name} {value:.6g}" for name, value in self.needed.items())
        return (
            f"{options} would allow {self.form}: {self.speed:.2f}x as fast as float, largest "
            f"error {_percent(self.error)}"
        )


@dataclasses.dataclass(frozen=True)
class NodeEntry:
    """A node that could have been quantized.

    Attributes:
        name: Its name.
        op_type: Its operator.
        state: "quantized", or why it is not.
        share: Share of the budget of error that it, or the group it was tried in, uses if quantized
            alone; None if that was not needed.
    """

    name: str
    op_type: str
    state: str
    share: float | None = None


@dataclasses.dataclass(kw_only=True)
class QuantizationReport:
    """The record of one `quantize` run.

    Attributes:
        source: The input file; "" for a model in memory.
        output: The file written; "" if none.
        chosen: Name of the form that was written; "float" if none paid.
        candidates: All forms tried.
        nodes: The nodes, for the form that was chosen.
        quantized_before: Number of nodes that were quantized already in the model given.
        allowances: What a larger budget of error would buy.
        bytes_before: Weights before.
        bytes_after: Weights after.
        samples: Input sets used to calibrate.
        measured: Input sets used to measure.
        repairs: Accuracy repairs that were tried, kept or not.
        metric: What the user measures; "" without labels or a metric.
        float_score: The float model's mean score by it.
        speed: How many times as fast the result is as the model that was given; None if not timed.
        interval: 95 % interval of that.
        notes: What the user should know.
        preparation: What `optimize` did first.
        seconds: Wall time by phase.
    """

    source: str = ""
    output: str = ""
    chosen: str = "float"
    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    nodes: list[NodeEntry] = dataclasses.field(default_factory=list)
    quantized_before: int = 0
    allowances: list[Allowance] = dataclasses.field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    samples: int = 0
    measured: int = 0
    repairs: list[RepairEntry] = dataclasses.field(default_factory=list)
    metric: str = ""
    float_score: float | None = None
    speed: float | None = None
    interval: tuple[float, float] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    preparation: Report | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_quantized(self) -> bool:
        """True if a quantized model was chosen."""
        return self.chosen != "float"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        data = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("candidates", "nodes", "repairs", "allowances", "preparation")
        }
        return data | {
            "is_quantized": self.is_quantized,
            "candidates": [dataclasses.asdict(one) for one in self.candidates],
            "nodes": [dataclasses.asdict(one) for one in self.nodes],
            "repairs": [dataclasses.asdict(one) for one in self.repairs],
            "allowances": [dataclasses.asdict(one) for one in self.allowances],
            "preparation": None if self.preparation is None else self.preparation.to_dict(),
        }

    def to_text(self, *, verbose: bool = False) -> str:
        """For people."""
        name = self.source or "model"
        if self.is_quantized:
            best = next(c for c in self.candidates if c.verdict == "chosen")
            speed = "not timed" if best.speed is None else f"{best.speed:.2f}x as fast as float"
            lines = [f"{name}: {self.chosen}, {speed}, largest error {_percent(best.error)}"]
        else:
            tried = any(one.error is not None or one.speed is not None for one in self.candidates)
            why = "no quantized form is both faster and within the budget"
            if not tried:
                why = "there was nothing to try, see the nodes and notes"
            stays = "stays float"
            if self.quantized_before:
                stays = f"quantized already ({self.quantized_before} such nodes), and no more was"
            lines = [f"{name}: {stays}: {why}"]
        if self.speed is not None and self.interval is not None:
            low, high = self.interval
            lines.append(
                f"speed: {self.speed:.2f}x the model that was given (95 %: {low:.2f} to {high:.2f})"
            )
        lines.append(f"weights: {self.bytes_before:,} -> {self.bytes_after:,} bytes")
        if self.candidates:
            lines.append(f"{'form':<24}{'nodes':>6}{'error':>9}{'cosine':>9}{'speed':>8}  verdict")
        for one in self.candidates:
            cosine = "-" if one.cosine is None else f"{one.cosine:.5f}"
            speed = "-" if one.speed is None else f"{one.speed:.2f}x"
            error = _percent(one.error)
            lines.append(
                f"{one.name:<24}{one.nodes:>6}{error:>9}{cosine:>9}{speed:>8}  {one.verdict}"
                + ("" if one.score is None else f", {self.metric} {one.score:.4f}")
            )
        lines += [str(one) for one in self.allowances]
        if self.float_score is not None:
            lines.append(f"{self.metric} of the float model: {self.float_score:.4f}")
        lines += [
            f"  repair {one.repair} of {one.form}: {one.verdict}{_change(one)}"
            for one in self.repairs
            if verbose or one.verdict == "kept" or one.after is not None
        ]
        states = Counter(
            (entry.op_type, "quantized" if entry.state == "quantized" else entry.state)
            for entry in self.nodes
        )
        for (op_type, state), count in states.most_common(None if verbose else 12):
            lines.append(f"  {count:>4} {op_type}: {state}")
        if verbose:
            lines += [
                f"    {entry.name} ({entry.op_type}): {entry.state}"
                + ("" if entry.share is None else f", alone {entry.share:.0%} of the budget")
                for entry in self.nodes
            ]
        lines += [f"note: {note}" for note in self.notes]
        if self.output:
            lines.append(f"written: {self.output}")
        return "\n".join(lines)


def _change(one: RepairEntry) -> str:
    if one.before is None or one.after is None:
        return ""
    before, after = one.before, one.after
    return (
        f", largest error {_percent(before.error)} -> {_percent(after.error)}, typical "
        f"{_percent(before.typical)} -> {_percent(after.typical)}, "
        f"cosine {before.cosine:.5f} -> {after.cosine:.5f}"
    )


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:.2%}"

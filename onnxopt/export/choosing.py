"""Which exporter's model is kept: parity decides first, then the latency after optimization."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.pipeline import Pipeline, count_nodes
from onnxopt.export.checking import Checker, name_axes
from onnxopt.export.exporters import Exporter, ExportFailedError, Job
from onnxopt.export.parts import Part
from onnxopt.export.quantized import fit_integer_kernels
from onnxopt.export.references import Reference
from onnxopt.presets import cleanup
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.benchmark import Ratio
from onnxopt.runtime.measuring.speed import measure_speed

_SECONDS = 4.0


@dataclasses.dataclass
class Candidate:
    """What one exporter did.

    Attributes:
        exporter: Its name.
        model: What it made; None if it failed.
        rejected: Why it is not kept; empty for the one that is.
        figures: Parity of each output.
        seconds: How long the export took.
        nodes: Nodes as exported.
        speed: How many times as fast it is as the first candidate at parity, once optimized.
        is_quantized: It computes on integers.
        notes: What the user should know if it is kept.
    """

    exporter: str
    model: ir.Model | None = None
    rejected: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    nodes: int = 0
    speed: Ratio | None = None
    is_quantized: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The record of it, as plain data."""
        return {
            "exporter": self.exporter,
            "kept": not self.rejected,
            "rejected": self.rejected,
            "parity": self.figures,
            "seconds": round(self.seconds, 2),
            "nodes": self.nodes,
            "speed": None if self.speed is None else self.speed.to_dict(),
        }


def try_exporter(
    exporter: Exporter, job: Job, part: Part, checker: Checker, before: Sequence[Candidate]
) -> Candidate:
    """Exports a part, and checks the model against PyTorch.

    Args:
        exporter: Who does it.
        job: What all parts have in common.
        part: The part.
        checker: Knows what PyTorch computes.
        before: What the exporters before did; of large models only one is made.
    """
    found = Candidate(exporter.name)
    if checker.large and any(not one.rejected for one in before):
        found.rejected = (
            "not tried: with over 1 GB of weights the first exporter that succeeds is kept "
            f"(--exporter {exporter.name})"
        )
        return found
    found.rejected = exporter.refusal(job, part)
    if found.rejected:
        return found
    start = time.perf_counter()
    try:
        model = exporter.export(job, part)
    except ExportFailedError as error:
        found.rejected = f"cannot export it: {error}"
        return found
    finally:
        found.seconds = time.perf_counter() - start
    found.nodes = count_nodes(model)
    found.rejected = checker.complaint(model)
    if not found.rejected:
        notes = fit_integer_kernels(model)
        found.is_quantized, found.notes = notes is not None, notes or []
        name_axes(model, part)
        # A large one only once it is saved: ONNX Runtime's copy of the weights beside PyTorch's
        # would double the memory.
        if not checker.large:
            found.rejected, found.figures = checker.check(model)
    if not found.rejected:
        found.model = model
    return found


def choose(candidates: Sequence[Candidate], runs: Sequence[Reference]) -> Candidate | None:
    """The best candidate: of those at parity the one that is fastest once optimized.

    Where no difference is proven, the first one is kept. The others get a reason.
    """
    fit = [one for one in candidates if not one.rejected]
    if not fit:
        return None
    best = fit[0]
    if len(fit) > 1:
        sets = [InputSet(run.feeds, str(run.case)) for run in runs]
        base = _optimized(fit[0])
        for other in fit[1:]:
            try:
                other.speed = measure_speed(base, _optimized(other), sets, _SECONDS)
            except CannotRunError as error:
                other.rejected = f"optimized, it does not run: {error.reason}"
        for other in fit[1:]:
            if other.rejected or other.speed is None or other.speed.verdict != "faster":
                continue
            if best.speed is None or other.speed.median > best.speed.median:
                best = other
    for other in fit:
        if other is not best and not other.rejected:
            other.rejected = _slower(other, best)
    return best


def _slower(other: Candidate, best: Candidate) -> str:
    if other.speed is None:
        return f"{best.exporter} is {best.speed} as fast, once optimized"
    if best.speed is None:
        return f"not proven faster than {best.exporter}, once optimized: {other.speed}"
    return f"{best.exporter} is faster, once optimized: {best.speed} against {other.speed}"


def _optimized(candidate: Candidate) -> ir.Model:
    assert candidate.model is not None
    model = candidate.model.clone()
    Pipeline(cleanup()).call(model)
    return model

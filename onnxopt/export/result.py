"""The outcome of an export, as plain data and as text."""

from __future__ import annotations

import dataclasses
from typing import Any

from onnxopt.runtime.integer_layers import IntegerLayers


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """One file of an export.

    Attributes:
        file: Its name in the folder.
        exporter: What made it.
        inputs: Input name to its symbolic shape.
        outputs: Output name to its symbolic shape.
        checked: The sizes that it was run at against PyTorch, in words.
        parity: Figures of each output.
        candidates: What every exporter did, and why it was not kept.
        optimized: Report of the optimization, if that was asked for.
        layers: Of a quantized model, which layers run on integers.
    """

    file: str
    exporter: str
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    checked: list[str]
    parity: dict[str, Any]
    candidates: list[dict[str, Any]]
    optimized: dict[str, Any] | None = None
    layers: IntegerLayers | None = None

    @property
    def largest_error(self) -> float:
        """The largest relative error of all outputs."""
        return max((figures["relative_error"] for figures in self.parity.values()), default=0.0)


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An export.

    Attributes:
        source: What was exported.
        output: The folder.
        task: The Hugging Face task; empty for other sources.
        model_type: The Hugging Face model type; empty for other sources.
        opset: Version of the default operator domain that was asked for.
        files: The models.
        versions: Package to its version.
        notes: What was fixed or left out, and why.
        seconds: How long it took.
    """

    source: str
    output: str
    task: str
    model_type: str
    opset: int
    files: list[ExportedFile]
    versions: dict[str, str]
    notes: list[str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The record of the export, as plain data."""
        plain = dataclasses.asdict(self) | {"seconds": round(self.seconds, 1)}
        for one, entry in zip(self.files, plain["files"], strict=True):
            entry["layers"] = None if one.layers is None else one.layers.to_dict()
        return plain

    def to_text(self, *, verbose: bool = False) -> str:
        """A few lines for people; with every input, output and shape if verbose."""
        what = " ".join(
            word for word in (self.model_type, self.task and f"for {self.task}") if word
        )
        lines = [f"{self.source} -> {self.output}" + (f" ({what})" if what else "")]
        for one in self.files:
            lines.append(
                f"  {one.file}: {one.exporter}, largest relative error to PyTorch "
                f"{one.largest_error:.1e} over {len(one.checked)} sets of inputs"
            )
            lines += [
                f"    {candidate['exporter']} not kept: {candidate['rejected']}"
                for candidate in one.candidates
                if not candidate["kept"]
            ]
            if one.optimized is not None:
                nodes = one.optimized["nodes"]
                lines.append(f"    optimized: {nodes['before']} -> {nodes['after']} nodes")
            if one.layers is not None:
                lines.append(f"    {one.layers}")
            if verbose:
                for kind, values in (("input", one.inputs), ("output", one.outputs)):
                    lines += [f"    {kind} {name}: {shape}" for name, shape in values.items()]
                lines += [f"    checked at {sizes}" for sizes in one.checked]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

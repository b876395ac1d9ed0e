"""The exporters: each makes an ONNX model, in memory, of one part."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Protocol

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.export.parts import Part

EXPORTERS = ("dynamo", "torchscript", "optimum")
DEFAULT_OPSET = 18


class ExportFailedError(OnnxOptError):
    """An exporter cannot export a part; the message is its reason in a line or two."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What all exporters of one export know.

    Attributes:
        opset: Version of the default operator domain.
        work: A temporary folder.
        model: The transformers model; None if the source is none.
        task: The task by its Hugging Face name; empty if the source is no transformers model.
        parts: Number of files that are made.
        weight_bytes: Bytes of all weights.
    """

    opset: int
    work: Path
    model: Any = None
    task: str = ""
    parts: int = 1
    weight_bytes: int = 0


class Exporter(Protocol):
    """One way from PyTorch to ONNX."""

    name: ClassVar[str]

    def refusal(self, job: Job, part: Part) -> str:
        """Why it does not apply; empty if it does."""
        ...

    def export(self, job: Job, part: Part) -> ir.Model:
        """Makes the model; weights share the memory of the module's.

        Raises:
            ExportFailedError: It does not work.
        """
        ...


def find_exporters(wanted: str) -> list[Exporter]:
    """The exporters to try, in order of preference where results are equal."""
    from onnxopt.export.dynamo import DynamoExporter
    from onnxopt.export.optimum import OptimumExporter
    from onnxopt.export.torchscript import TorchScriptExporter

    every: list[Exporter] = [DynamoExporter(), TorchScriptExporter(), OptimumExporter()]
    return [one for one in every if wanted in ("auto", one.name)]


def few_lines(error: BaseException) -> str:
    """The reason in an exporter's message, which is often pages long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("[", "Traceback", "File ", "="))]
    text = " ".join((telling or lines or [type(error).__name__])[:3])
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else text[:297] + "..."

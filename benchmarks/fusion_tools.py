"""Optimizers of transformers on many exports, each in a process of its own.

    python benchmarks/fusion_tools.py TOOL FOLDER TYPE:HEADS:WIDTH:MODEL ...

writes FOLDER/MODEL for every model. TOOL is onnxopt (for CUDA), ort_transformers or ort_fusions,
TYPE the model type by which ONNX Runtime's transformer optimizer knows it.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

ATTENTION = ("MultiHeadAttention", "GroupQueryAttention", "Attention")
NORMALIZATION = (
    "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
ACTIVATION = ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")
TOOLS = ("onnxopt", "ort_transformers", "ort_fusions")

_TIMEOUT = 1800


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, and what ONNX Runtime's transformer optimizer wants to be told of it.

    Attributes:
        path: The file.
        model_type: Its type.
        heads: Query heads.
        width: Size of a hidden state.
    """

    path: Path
    model_type: str
    heads: int
    width: int


def found(path: Path) -> tuple[int, ...]:
    """Fused attentions, normalizations and activations in all graphs of a file."""
    counts: Counter[str] = Counter(node.op_type for node in _nodes(onnx.load(path).graph))
    kinds = (ATTENTION, NORMALIZATION, ACTIVATION)
    return tuple(sum(counts[name] for name in kind) for kind in kinds)


def run(tool: str, jobs: Sequence[Job], folder: Path) -> dict[Path, str]:
    """Writes each result into the folder; the models that the tool stops at, with its reason."""
    errors: dict[Path, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    left = list(jobs)
    while left:
        texts = [f"{one.model_type}:{one.heads}:{one.width}:{one.path}" for one in left]
        command = [sys.executable, __file__, tool, str(folder), *texts]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
            lines = done.stderr.strip().splitlines() if done.returncode else []
            end = lines[-1] if lines else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            end = f"takes more than {_TIMEOUT} s"
        while left and (folder / left[0].path.name).exists():
            left.pop(0)
        if left:
            errors[left.pop(0).path] = end[:200]
    return errors


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _optimize(tool: str, job: Job, target: Path) -> None:
    if tool == "onnxopt":
        import onnxopt

        onnxopt.optimize(job.path, target, target="cuda", guard="off")
    elif tool == "ort_transformers":
        from onnxruntime.transformers.optimizer import optimize_model

        optimized = optimize_model(
            str(job.path), job.model_type, num_heads=job.heads, hidden_size=job.width
        )
        optimized.save_model_to_file(str(target))
    else:
        import onnx_ir as ir
        from onnxscript.rewriter.ort_fusions import optimize_for_ort

        model, _ = optimize_for_ort(ir.load(job.path))
        ir.save(model, target)


def main() -> None:
    tool, folder, *texts = sys.argv[1:]
    for text in texts:
        model_type, heads, width, path = text.split(":", 3)
        job = Job(Path(path), model_type, int(heads), int(width))
        _optimize(tool, job, Path(folder, job.path.name))


if __name__ == "__main__":
    main()

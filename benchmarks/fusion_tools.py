"""One optimizer on one export: what it fuses, and whether its result still computes the same.

    python benchmarks/fusion_tools.py TOOL TYPE MODEL ...     one line of JSON for each model

TOOL is onnxopt (for CUDA), ort_transformers or ort_fusions; TYPE is the model type by which ONNX
Runtime's transformer optimizer knows it. Runs in a process of its own, so that a crash is seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

ATTENTION = ("MultiHeadAttention", "GroupQueryAttention", "Attention")
NORMALIZATION = (
    "LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
ACTIVATION = ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")
KINDS = (ATTENTION, NORMALIZATION, ACTIVATION)
TOOLS = ("onnxopt", "ort_transformers", "ort_fusions")

_TIMEOUT = 600


def found(path: Path) -> list[int]:
    """Fused attentions, normalizations and activations in all graphs of a file."""
    counts: Counter[str] = Counter(node.op_type for node in _nodes(onnx.load(path).graph))
    return [sum(counts[name] for name in kind) for kind in KINDS]


def run(tool: str, model_type: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """`{"found": [...], "parity": status}` or `{"error": reason}` for each path, in their order."""
    results: list[dict[str, Any]] = []
    while len(results) < len(paths):
        rest = [str(path) for path in paths[len(results) :]]
        command = [sys.executable, __file__, tool, model_type, *rest]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
            )
            lines = done.stderr.strip().splitlines()
            output, end = done.stdout, lines[-1] if lines else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            raw = late.stdout or b""
            output = raw.decode() if isinstance(raw, bytes) else raw
            end = f"takes more than {_TIMEOUT} s"
        results += [json.loads(line[1:]) for line in output.splitlines() if line[:1] == "\f"]
        if len(results) < len(paths):
            results.append({"error": end[:200]})
    return results


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _onnxopt(source: Path, target: Path, model_type: str) -> None:
    import onnxopt

    onnxopt.optimize(source, target, target="cuda", guard="off")


def _ort_transformers(source: Path, target: Path, model_type: str) -> None:
    from fusion_families import HEADS, WIDTH
    from onnxruntime.transformers.optimizer import optimize_model

    width = 48 if source.name.startswith("minilm") else WIDTH
    model = optimize_model(str(source), model_type, num_heads=HEADS, hidden_size=width)
    model.save_model_to_file(str(target))


def _ort_fusions(source: Path, target: Path, model_type: str) -> None:
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    model, _ = optimize_for_ort(ir.load(source))
    ir.save(model, target)


def main() -> None:
    from onnxopt.runtime.parity import check_parity

    tool, model_type, *paths = sys.argv[1:]
    work: dict[str, Callable[[Path, Path, str], None]] = {
        "onnxopt": _onnxopt, "ort_transformers": _ort_transformers, "ort_fusions": _ort_fusions,
    }  # fmt: skip
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "model.onnx")
            work[tool](path, target, model_type)
            parity = check_parity(path, target)
            result = {"found": found(target), "parity": parity.status}
            if parity.reasons:
                result["reason"] = str(parity.reasons[0])[:200]
        print(f"\f{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()

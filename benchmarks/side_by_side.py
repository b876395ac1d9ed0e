"""onnxopt, onnxsim, onnxslim and onnxscript on the same models, one after the other.

    python benchmarks/side_by_side.py [--models NAME ...] [--write docs/benchmarks.md]

Every tool runs as a whole process from the shell, imports included; then once more inside a process
that times load, optimize and save alone. Latency is measured in ONNX Runtime with its full
optimization, in interleaved rounds, as a ratio against the input. Models are built into the cache
on first use (extra `models`); the other tools are in the extra `benchmarks`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from measuring import latency_ratios, open_session, run_process
from tools import TOOLS, Tool

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from cache import materialize  # noqa: E402  (models/ is no package; it is found by path)
from registry import model as find_model  # noqa: E402
from spec import example_inputs  # noqa: E402

MODELS = (
    "minilm_dynamo",
    "minilm_ts",
    "vit_tiny_dynamo",
    "vit_tiny_ts",
    "mobilenetv2_dynamo",
    "mobilenetv2_ts",
    "resnet50_dynamo",
    "resnet50_ts",
    "swin_tiny_ts",
    "convnext_tiny_ts",
    "llama168m",
)


# What latency is measured at: one request; a decoder makes one token with 128 behind it.
REQUEST = {"batch": 1, "sequence": 128, "past": 0}
DECODE = {"batch": 1, "sequence": 1, "past": 128}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    spec = find_model(name)
    source = materialize(spec)
    result: dict[str, Any] = {
        "model": name,
        "nodes": count_nodes(source),
        "megabytes": round(size_of(source) / 1e6, 1),
        "tools": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        targets: dict[str, Path] = {}
        for tool in TOOLS:
            if not tool.version or tool.name not in arguments.tools:
                continue
            target = Path(folder, f"{tool.name.replace(' ', '_')}", "model.onnx")
            target.parent.mkdir()
            result["tools"][tool.name] = figures = run_tool(tool, source, target, arguments.repeat)
            if "error" not in figures:
                targets[tool.name] = target
            print(f"{name:20} {tool.name:20} {figures}", file=sys.stderr)
        if not arguments.no_latency:
            sizes = DECODE if name.startswith("llama") else REQUEST
            add_latency(
                result, source, targets, example_inputs(spec.inputs, sizes), arguments.threads
            )
    return result


def run_tool(tool: Tool, source: Path, target: Path, repeat: int) -> dict[str, Any]:
    """Nodes, seconds and peak memory of one tool; the fastest of `repeat` runs counts."""
    runs = [run_process(tool.shell(source, target)) for _ in range(repeat)]
    failed = next((run for run in runs if run.code), None)
    if failed or not target.exists():
        lines = (failed or runs[0]).output.strip().splitlines()
        return {"error": lines[-1][:200] if lines else "no output"}
    figures: dict[str, Any] = {
        "nodes": count_nodes(target),
        "seconds": round(min(run.seconds for run in runs), 2),
        "peak_mb": round(max(run.peak_mb for run in runs)),
    }
    if tool.in_process:
        times = []
        for _ in range(repeat):
            run = run_process(tool.timed(source, target.with_name("timed.onnx")))
            times += [float(t.split()[1]) for t in run.output.splitlines() if t[:7] == "SECONDS"]
        figures["in_process"] = round(min(times), 2) if times else None
    return figures


def add_latency(
    result: dict[str, Any], source: Path, targets: dict[str, Path], feeds: Any, threads: int
) -> None:
    """Adds `latency`: (ratio, lower, upper) against the input for each tool's result."""
    base = open_session(source, threads)
    sessions = {}
    for tool, target in targets.items():
        if tool == "onnxopt --guard off":  # the same model as with the parity run
            continue
        sessions[tool] = open_session(target, threads)
    ratios = latency_ratios(base, list(sessions.values()), feeds)
    for tool, ratio in zip(sessions, ratios, strict=True):
        result["tools"][tool]["latency"] = [round(value, 2) for value in ratio]


def count_nodes(path: Path) -> int:
    """Nodes of the main graph and of all subgraphs."""

    def count(graph: onnx.GraphProto) -> int:
        inner = (
            g
            for n in graph.node
            for a in n.attribute
            for g in [*a.graphs, *([a.g] if a.type == 5 else [])]
        )
        return len(graph.node) + sum(map(count, inner))

    return count(onnx.load(path, load_external_data=False).graph)


def size_of(path: Path) -> int:
    """Bytes of the model file and of the data file beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table of docs/benchmarks.md."""
    names = [tool.name for tool in TOOLS if tool.version]
    lines = [
        "| model (nodes, MB) | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for result in results:
        cells = [f"{result['model']} ({result['nodes']}, {result['megabytes']:.0f})"]
        cells += [cell(result["tools"].get(name, {"error": "not run"})) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(figures: dict[str, Any]) -> str:
    """Nodes / seconds of the command / seconds in process / peak MB / latency ratio."""
    if "error" in figures:
        return f"fails: {figures['error'][:60].replace('|', '/')}"
    inside = figures.get("in_process")
    latency = figures.get("latency")
    parts = [
        f"**{figures['nodes']}**",
        f"{figures['seconds']:.1f} s",
        f"{inside:.2f} s" if inside is not None else "-",
        f"{figures['peak_mb']} MB",
    ]
    if latency:
        parts.append(f"{latency[0]:.2f}x ({latency[1]:.2f} to {latency[2]:.2f})")
    return " / ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--tools", nargs="+", default=[tool.name for tool in TOOLS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    results = [measure(name, arguments) for name in arguments.models]
    versions = ", ".join(f"{t.package} {t.version}" for t in TOOLS[1:] if t.version)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ")
    print(f"onnxruntime {onnxruntime.__version__}, {versions}\n")
    print("nodes / command / in process / peak memory / latency ratio (95 % interval)\n")
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

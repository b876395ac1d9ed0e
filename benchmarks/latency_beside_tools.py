"""Latency of what every tool makes of the reference models, all in one run on the CPU.

    python benchmarks/latency_beside_tools.py FOLDER --prepare [--models NAME ...]
    python benchmarks/latency_beside_tools.py FOLDER [--models NAME ...] [--threads 1]

The first makes the files, which takes minutes for some tools, and the second only measures: the
original and all results in interleaved rounds, each in several sessions, on one request
(batch 1, 128 tokens; the decoder one token with 128 behind it), under ONNX Runtime's full
optimization. Ratios are to the original, with their 95 % interval; above 1 is faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from fusion_tools import Job
from fusion_tools import run as run_fusion_tool
from measuring import run_process
from numpy.typing import NDArray
from side_by_side import DECODE, MODELS, REQUEST
from tools import TOOLS

from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.measuring.ratio import ratio_between

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from cache import materialize  # noqa: E402  (models/ is no package; it is found by path)
from registry import model as find_model  # noqa: E402
from spec import example_inputs  # noqa: E402

# The type by which ONNX Runtime's transformer optimizer knows a model, its heads and width.
TRANSFORMERS = {
    "minilm": ("bert", 12, 384), "vit": ("vit", 3, 192), "swin": ("swin", 0, 0),
    "llama": ("gpt2", 0, 0), "convnext": ("bert", 0, 0),
}  # fmt: skip
NAMES = ("onnxopt", "onnxsim", "onnxslim", "ort_fusions", "ort_transformers")
_SESSIONS = 3
_LARGE_MB = 300


def prepare(name: str, folder: Path) -> None:
    """Runs every tool whose result is not there yet; what fails leaves a .failed file."""
    source = materialize(find_model(name))
    for tool in NAMES:
        target = folder / tool / source.name
        failed = target.with_suffix(".failed")
        if target.exists() or (failed.exists() and tool != "onnxopt"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        error = make(tool, name, source, target)
        print(f"{name} {tool}: {error or 'made'}", flush=True)
        if error:
            failed.write_text(error, encoding="utf-8")


def make(tool: str, name: str, source: Path, target: Path) -> str:
    """Writes what a tool makes of a model; why it does not, or ""."""
    if tool in ("ort_fusions", "ort_transformers"):
        known = [TRANSFORMERS[key] for key in TRANSFORMERS if name.startswith(key)]
        if tool == "ort_transformers" and not known:
            return "no transformer"
        model_type, heads, width = known[0] if known else ("", 0, 0)
        job = Job(source, model_type, heads, width)
        return run_fusion_tool(tool, [job], target.parent).get(source, "")
    command = next(one for one in TOOLS if one.name == tool).shell(source, target)
    run = run_process(command)
    return "" if target.exists() else (run.output.strip().splitlines() or ["no output"])[-1][:200]


def measure(name: str, folder: Path, threads: int, seconds: float) -> dict[str, Any]:
    """Ratios of each tool's result to the original, and the sessions of the original themselves."""
    spec = find_model(name)
    source = materialize(spec)
    paths = {"": source}
    paths |= {
        tool: folder / tool / source.name
        for tool in NAMES
        if (folder / tool / source.name).exists()
    }
    size = sum(one.stat().st_size for one in source.parent.glob(f"{source.name}*"))
    count = 1 if size > _LARGE_MB * 1e6 else _SESSIONS
    feeds = example_inputs(spec.inputs, DECODE if name.startswith("llama") else REQUEST)
    sessions: list[ort.InferenceSession] = []
    columns: dict[str, list[int]] = {tool: [] for tool in paths}
    for _ in range(count):
        for tool, path in paths.items():
            columns[tool].append(len(sessions))
            sessions.append(session(path, threads))
    calls = [lambda one=one: one.run(None, feeds) for one in sessions]
    rounds: NDArray[np.float64] = time_interleaved(calls, seconds=seconds).rounds
    found: dict[str, Any] = {}
    for tool, places in columns.items():
        if tool:
            found[tool] = ratio_between(rounds, columns[""], places)
    return {"model": name, "rounds": len(rounds), "sessions": count, "ratios": found}


def session(path: Path, threads: int) -> ort.InferenceSession:
    """A session whose threads rest while others run."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def row(result: dict[str, Any], folder: Path) -> str:
    """A line of the table; the fastest result and those that it is not proven to beat are bold."""
    ratios = result["ratios"]
    best = max(ratio.median for ratio in ratios.values())
    cells = []
    for tool in NAMES:
        if tool in ratios:
            one = ratios[tool]
            text = f"{one.median:.2f} ({one.low:.2f} to {one.high:.2f})"
            cells.append(f"**{text}**" if one.high >= best else text)
        else:
            failed = folder / tool / f"{result['model']}.failed"
            reason = failed.read_text(encoding="utf-8") if failed.exists() else "not run"
            cells.append(reason.replace("|", "/").partition(":")[0][:30])
    return f"| {result['model']} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args(arguments)
    if given.prepare:
        for name in given.models:
            prepare(name, given.folder)
        return
    print(f"| model | {' | '.join(NAMES)} |", "|---" * (len(NAMES) + 1) + "|", sep="\n")
    for name in given.models:
        print(
            row(measure(name, given.folder, given.threads, given.seconds), given.folder), flush=True
        )


if __name__ == "__main__":
    main()

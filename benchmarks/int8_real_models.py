"""Every model of a folder through `onnxopt quantize` and onnxruntime.quantization, in one run.

    python benchmarks/int8_real_models.py FOLDER [--models NAME ...] [--tools NAME ...]
        [--samples 32] [--budget 180] [--max-error E] [--json OUT]

Real inputs come from FOLDER/evalkit.py if there is one (its FEED_TASKS: task -> model file, feeds);
other models get synthesized inputs, also for calibration, so that static forms can be measured.
ONNX Runtime's tools run as their documentation says, pre-processing first (`ort_quantizers.py`).
Every result is measured on the same held-out inputs against the original file: the largest error
relative to the output's scale, and speed in interleaved rounds over several sessions. A row is

    crash   the tool fails, or ONNX Runtime does not run what it made
    slower  proven slower than the original
    wrong   an error of 5 % or more
    gain    at least 1.05 times as fast, with an error under 5 %
    float   anything else: neither harm nor use
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
from ort_quantizers import SETTINGS, run_command, run_setting

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.passes.cleanup import ConvertOpset
from onnxopt.runtime.inputs.plan import InputSet, plan_inputs
from onnxopt.runtime.inputs.trials import run_plan
from onnxopt.runtime.measuring.speed import measure_speed
from onnxopt.runtime.parity.deviation import Reference
from onnxopt.runtime.session import CPU, CannotRunError, open_session

OURS = "onnxopt"
STATUSES = ("crash", "slower", "wrong", "gain", "float")
_HELD_OUT = 8
_SECONDS = 600.0
_LEAST_GAIN, _LARGEST_ERROR = 1.05, 0.05
_RUNNABLE_OPSET = 13


def load_kit(folder: Path) -> ModuleType:
    """FOLDER/evalkit.py as a module."""
    spec = importlib.util.spec_from_file_location("evalkit", folder / "evalkit.py")
    assert spec is not None
    assert spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


def feeds_of(folder: Path, samples: int) -> dict[Path, list[dict[str, Any]]]:
    """Real inputs by model file."""
    if not (folder / "evalkit.py").exists():
        return {}
    found: dict[Path, list[dict[str, Any]]] = {}
    for path, feeds, _ in load_kit(folder).FEED_TASKS.values():
        if (folder / path).exists():
            drawn = itertools.islice(feeds(samples), samples)
            found[folder / path] = [feed for feed, _ in drawn]
    return found


def runnable(path: Path) -> ir.Model:
    """The model; of an opset that ONNX Runtime no longer runs, raised to one that it does."""
    model = load_model(path)
    try:
        open_session(model)
    except CannotRunError:
        ConvertOpset(version=_RUNNABLE_OPSET)(model)
    return model


def synthesized(model: ir.Model, samples: int) -> list[dict[str, Any]]:
    """Inputs that the model runs on; of a fixed shape as many as are asked for."""
    session = open_session(model)
    plan = plan_inputs(model, sets=samples)
    ran = run_plan(session, plan).sets
    if all(one.sizes == ran[0].sizes for one in ran):
        more = [plan.build(ran[0].sizes, run) for run in range(len(ran), samples)]
        return [dict(one.feeds) for one in (*ran, *more)]
    return [dict(one.feeds) for one in ran]


def run_tool(tool: str, source: Path, target: Path, data: Path, options: list[str]) -> str:
    """Runs one tool in its own process; the result is what went wrong, or ""."""
    if tool != OURS:
        return run_setting(tool, source, target, data, seconds=_SECONDS)
    command = [sys.executable, "-m", "onnxopt", "quantize", str(source), "-o", str(target), "-q"]
    command += ["--calibration", str(data), *options]
    return run_command(command, target, seconds=_SECONDS)


def measured(
    source: Path, feeds: list[dict[str, Any]], tools: Sequence[str], options: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each tool makes of one model."""
    held_out = min(_HELD_OUT, max(1, len(feeds) // 2))
    kept = feeds[-held_out:]
    sets = [InputSet(feed, f"#{index}") for index, feed in enumerate(kept)]
    original = runnable(source)
    reference = Reference(original, sets, CPU)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        for index, feed in enumerate(feeds[:-held_out] or feeds):
            np.savez(data / f"{index:04}.npz", **feed)
        for tool in tools:
            target = Path(folder, f"{tool}.onnx")
            failed = run_tool(tool, source, target, data, options)
            if failed:
                yield tool, {"status": "crash", "failed": failed}
                continue
            try:
                result = load_model(target)
                found = reference.deviation(result)
                ratio = measure_speed(original, result, sets[:2], 8.0)
            except OnnxOptError as error:
                yield tool, {"status": "crash", "failed": f"result: {error}"}
                continue
            row = {
                "error": found.error,
                "cosine": found.cosine,
                "speed": ratio.median,
                "verdict": ratio.verdict,
                "bytes": target.stat().st_size / source.stat().st_size,
            }
            yield tool, {"status": status(row), **row}


def status(row: dict[str, Any]) -> str:
    """What a user gets."""
    if row["verdict"] == "slower":
        return "slower"
    if row["error"] >= _LARGEST_ERROR:
        return "wrong"
    return "gain" if row["speed"] >= _LEAST_GAIN else "float"


def text_of(row: dict[str, Any]) -> str:
    """One line of a row."""
    if "failed" in row:
        return f"{row['status']:7} {row['failed'][:110]}"
    return (
        f"{row['status']:7} {row['speed']:.2f}x  error {row['error']:.4f}  "
        f"cosine {row['cosine']:.5f}  bytes {row['bytes']:.2f}"
    )


def summary(rows: dict[str, dict[str, dict[str, Any]]], tools: Sequence[str]) -> Iterator[str]:
    """For each tool how many models ended how, and its mean speed where it is of use."""
    for tool in tools:
        found = [row[tool] for row in rows.values() if tool in row]
        counts = Counter(row["status"] for row in found)
        gains = [row["speed"] for row in found if row["status"] == "gain"]
        mean = float(np.exp(np.mean(np.log(gains)))) if gains else 1.0
        parts = ", ".join(f"{name} {counts[name]}" for name in STATUSES)
        yield f"{tool:20} {len(found)} models: {parts}; mean gain {mean:.2f}x"


def main() -> None:
    """Runs the tools on the models and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--tools", nargs="+", choices=[OURS, *SETTINGS])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--budget", type=float, default=180.0)
    parser.add_argument("--max-error", type=float)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tools = arguments.tools or [OURS, "ort-dynamic", "ort-static"]
    real = feeds_of(arguments.folder, arguments.samples)
    options = ["--budget", str(arguments.budget)]
    if arguments.max_error is not None:
        options += ["--max-error", str(arguments.max_error)]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for source in sorted(arguments.folder.rglob("*.onnx")):
        name = str(source.relative_to(arguments.folder))
        if arguments.models and not any(part in name for part in arguments.models):
            continue
        rows[name] = {}
        try:
            feeds = real.get(source) or synthesized(runnable(source), arguments.samples)
            for tool, row in measured(source, feeds, tools, options):
                rows[name][tool] = row
                print(f"{name:56} {tool:14} {text_of(row)}", flush=True)
        except OnnxOptError as error:
            print(f"{name:56} not measured: {error}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))
    print("\n".join(summary(rows, tools)))


if __name__ == "__main__":
    main()

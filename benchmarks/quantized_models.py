"""Every float model of a folder through `onnxopt quantize` and onnxruntime.quantization.

    python benchmarks/quantized_models.py FOLDER [--models NAME ...] [--samples 32] [--json OUT]

Real inputs come from FOLDER/evalkit.py if there is one (its FEED_TASKS: task -> model file, feeds);
other models get synthesized inputs, also for calibration, so that static forms can be measured. Of
ONNX Runtime's tools, quantize_dynamic and quantize_static (uint8 activations, int8 weights, per
channel where the opset allows) are run as their documentation says, and every result is measured on
the same held-out inputs: largest error relative to the output's scale, and speed against the float
model in interleaved rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.deviation import Reference
from onnxopt.runtime.inputs import InputSet, plan_inputs
from onnxopt.runtime.session import CPU, open_session
from onnxopt.runtime.speed import measure_speed
from onnxopt.runtime.trials import run_plan

_HELD_OUT = 8
_OURS = "onnxopt"
_TOOLS = (_OURS, "ort-dynamic", "ort-static")
_SECONDS = 400


def feeds_of(folder: Path, samples: int) -> dict[Path, list[dict[str, Any]]]:
    """Real inputs by model file."""
    script = folder / "evalkit.py"
    if not script.exists():
        return {}
    spec = importlib.util.spec_from_file_location("evalkit", script)
    assert spec is not None
    assert spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    found: dict[Path, list[dict[str, Any]]] = {}
    for path, feeds, _ in kit.FEED_TASKS.values():
        drawn = itertools.islice(feeds(samples), samples)
        found[folder / path] = [feed for feed, _ in drawn]
    return found


def synthesized(path: Path) -> list[dict[str, Any]]:
    """Inputs that the model runs on."""
    model = load_model(path)
    plan = plan_inputs(model, sets=16)
    return [dict(one.feeds) for one in run_plan(open_session(model), plan).sets]


def run_tool(tool: str, source: Path, target: Path, data: Path) -> str:
    """Runs one tool in its own process; the result is what went wrong, or ""."""
    if tool == _OURS:
        command = [sys.executable, "-m", "onnxopt", "quantize", str(source), "-o", str(target)]
        command += ["--calibration", str(data), "-q"]
    else:
        command = [sys.executable, __file__, "--worker", tool, str(source), str(target), str(data)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"took over {_SECONDS} s"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 and target.exists() else (lines or ["no output"])[-1]


def worker(tool: str, source: str, target: str, data: str) -> None:
    """One of ONNX Runtime's quantizers."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = f"{target}.prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    if tool == "ort-dynamic":
        quantize_dynamic(prepared, target, per_channel=True, weight_type=QuantType.QInt8)
        return

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([dict(np.load(p)) for p in sorted(Path(data).glob("*.npz"))])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    opset = load_model(source).opset_imports.get("", 1)
    quantize_static(
        prepared,
        target,
        Reader(),
        per_channel=opset >= 13,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def measured(source: Path, feeds: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each tool makes of one model."""
    kept = feeds[-_HELD_OUT:]
    sets = [InputSet(feed, f"#{index}") for index, feed in enumerate(kept)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        for index, feed in enumerate(feeds[:-_HELD_OUT] or feeds):
            np.savez(data / f"{index:04}.npz", **feed)
        original = load_model(source)
        reference = Reference(original, sets, CPU)
        for tool in _TOOLS:
            target = Path(folder, f"{tool}.onnx")
            failed = run_tool(tool, source, target, data)
            if failed:
                yield tool, {"failed": failed}
                continue
            try:
                result = load_model(target)
                found = reference.deviation(result)
                ratio = measure_speed(original, result, sets[:2], 8.0)
                yield (
                    tool,
                    {
                        "error": found.error,
                        "cosine": found.cosine,
                        "speed": ratio.median,
                        "verdict": ratio.verdict,
                        "bytes": target.stat().st_size / source.stat().st_size,
                    },
                )
            except OnnxOptError as error:
                yield tool, {"failed": f"result: {error}"}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    real = feeds_of(arguments.folder, arguments.samples)
    rows: dict[str, Any] = {}
    for source in sorted(arguments.folder.rglob("*.onnx")):
        name = str(source.relative_to(arguments.folder))
        if arguments.models and not any(part in name for part in arguments.models):
            continue
        try:
            feeds = real.get(source) or synthesized(source)
            rows[name] = dict(measured(source, feeds))
        except OnnxOptError as error:
            rows[name] = {"float": {"failed": str(error)}}
        for tool, row in rows[name].items():
            text = row.get("failed") or (
                f"error {row['error']:.4f}  cosine {row['cosine']:.5f}  {row['speed']:.2f}x "
                f"({row['verdict']})  bytes {row['bytes']:.2f}"
            )
            print(f"{name:56} {tool:12} {text[:140]}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""The quantizers of onnxruntime.quantization, each in a process of its own.

    python benchmarks/ort_quantizers.py prepare|SETTING IN OUT FOLDER_OF_NPZ

A model goes through `quant_pre_process` ("prepare") first, as its documentation asks for; where
that fails, a user would go on without it. Scales are per channel where the opset has them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, dict[str, Any]] = {
    "ort-dynamic": {},
    "ort-static": {"activation_type": "QUInt8"},
    "ort-static-reduced": {"activation_type": "QUInt8", "reduce_range": True},
    "ort-static-products": {"activation_type": "QUInt8", "ops": ["Conv", "MatMul", "Gemm"]},
    "ort-static-s8": {"activation_type": "QInt8"},
    "ort-qoperator": {"activation_type": "QUInt8", "format": "QOperator"},
}
_FIRST_PER_CHANNEL = 13


def run_setting(setting: str, source: Path, target: Path, data: Path, *, seconds: float) -> str:
    """Quantizes in a child process; the result is what went wrong, or ""."""
    prepared = target.with_suffix(".prepared.onnx")
    if _child("prepare", source, prepared, data, seconds):
        prepared = source
    return _child(setting, prepared, target, data, seconds)


def _child(task: str, source: Path, target: Path, data: Path, seconds: float) -> str:
    command = [sys.executable, __file__, task, str(source), str(target), str(data)]
    return run_command(command, target, seconds=seconds)


def run_command(command: list[str], target: Path, *, seconds: float) -> str:
    """Runs a command that has to write `target`; the result is what went wrong, or ""."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"took over {seconds:.0f} s"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 and target.exists() else (lines or ["no output"])[-1]


def quantize(setting: str, source: str, target: str, data: str) -> None:
    """Runs one of the quantizers."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if setting == "prepare":
        quant_pre_process(source, target, skip_symbolic_shape=True)
        return
    if setting == "ort-dynamic":
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        return

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = (dict(np.load(path)) for path in sorted(Path(data).glob("*.npz")))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    options = SETTINGS[setting]
    imports = onnx.load(source, load_external_data=False).opset_import
    opset = next((one.version for one in imports if one.domain in ("", "ai.onnx")), 1)
    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat[options.get("format", "QDQ")],
        op_types_to_quantize=options.get("ops"),
        per_channel=opset >= _FIRST_PER_CHANNEL,
        reduce_range=options.get("reduce_range", False),
        activation_type=QuantType[options["activation_type"]],
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    quantize(*sys.argv[1:])

"""Seconds and peak memory of quantizing gigabytes of weights to 4 bits, beside ONNX Runtime's own.

    python benchmarks/weight_only_cost.py [--gigabytes 2] [--rounds 2] [--methods rtn mse]

Both tools run as whole processes, one after the other, on the same file; that both write the same
integers is checked in tests. The time includes reading and writing the files.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measuring import Run, run_process

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model

ORT = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
quantizer = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), block_size=32, is_symmetric=False)
quantizer.process()
quantizer.model.save_model_to_file(sys.argv[2], use_external_data_format=True)
"""


def commands(source: Path, output: Path, methods: list[str]) -> dict[str, list[str]]:
    """The tools by name."""
    found = {"onnxruntime": [sys.executable, "-c", ORT, str(source), str(output)]}
    for method in methods:
        spec = f"quantize-weights{{bits=4,block-size=32,method={method}}}"
        found[f"onnxopt {method}"] = [
            *(sys.executable, "-m", "onnxopt", "optimize", str(source), "-o", str(output)),
            *("--passes", spec, "--guard", "off", "--external-data"),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["rtn"])
    arguments = parser.parse_args()
    cached = materialize(find_model(f"big_external_{arguments.gigabytes}gb"))
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory(dir=cached.parent.parent) as folder:
        # A copy of its own: onnx refuses data files that have a second hard link.
        source = Path(folder, cached.name)
        shutil.copy(cached, source)
        shutil.copy(f"{cached}.data", f"{source}.data")
        for _ in range(arguments.rounds):
            output = Path(folder, "out")
            for name, command in commands(source, output / "out.onnx", arguments.methods).items():
                output.mkdir()
                runs.setdefault(name, []).append(run_process(command))
                shutil.rmtree(output)
    base = statistics.median(run.seconds for run in runs["onnxruntime"])
    for name, found in runs.items():
        seconds = statistics.median(run.seconds for run in found)
        peak = max(run.peak_mb for run in found)
        failed = "".join(f"  fails: {run.output[-200:]}" for run in found if run.code)
        print(
            f"{name:16} {seconds:6.1f} s  {seconds / base:5.2f} of the time  {peak:6.0f} MB{failed}"
        )


if __name__ == "__main__":
    main()

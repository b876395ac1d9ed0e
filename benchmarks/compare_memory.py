"""Peak memory of `compare` and `diagnose`: at most both models and 500 MB.

    python benchmarks/compare_memory.py [--gigabytes 2] [--commands compare diagnose]

Models: gigabytes of external weights against a copy, against one with a wrong bias, and a
small model whose outputs take 64, 128 and 192 MB. Prints seconds, peak memory and what is allowed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
from measuring import run_process

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model

_ALLOWED_MB = 500
_LARGE_OUTPUTS = """<ir_version: 9, opset_import: ["": 18]>
g (float[batch, 4096] x) => (float[batch, 4096, 4096] y) {
    a = Constant<value_ints = [1]>() b = Constant<value_ints = [2]>()
    r = Unsqueeze(x, a) c = Unsqueeze(x, b) y = OP(r, c) }"""


def copied(source: Path, folder: Path) -> Path:
    """A copy that has external data of its own name; only the graph takes space."""
    target = folder / source.name
    target.write_bytes(source.read_bytes())
    data = source.with_name(f"{source.name}.data")
    os.link(data, folder / data.name)
    return target


def faulty(source: Path, folder: Path) -> Path:
    """A copy whose last bias is another one."""
    target = folder / "faulty.onnx"
    data = source.with_name(f"{source.name}.data")
    os.link(data, folder / data.name) if not (folder / data.name).exists() else None
    model = onnx.load(source, load_external_data=False)
    last = model.graph.initializer[-1]
    wrong = np.full(tuple(last.dims), 0.01, np.float32)
    last.CopyFrom(onnx.numpy_helper.from_array(wrong, last.name))
    onnx.save(model, target)
    return target


def large_outputs(folder: Path) -> list[Path]:
    """A small model with large outputs, and the same sum with its operands swapped."""
    paths = [folder / "one.onnx", folder / "other.onnx"]
    for path, op in zip(paths, ("Add(r, c)", "Add(c, r)"), strict=True):
        onnx.save(onnx.parser.parse_model(_LARGE_OUTPUTS.replace("OP(r, c)", op)), path)
    return paths


def size_mb(path: Path) -> float:
    """Of a model and its external data."""
    data = path.with_name(f"{path.name}.data")
    return (path.stat().st_size + (data.stat().st_size if data.exists() else 0)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=int, default=2)
    parser.add_argument("--commands", nargs="+", default=["compare", "diagnose"])
    arguments = parser.parse_args()
    source = materialize(find_model(f"big_external_{arguments.gigabytes}gb"))
    over = False
    with tempfile.TemporaryDirectory(dir=source.parent) as name:
        folder = Path(name)
        pairs = {
            "copy": (source, copied(source, folder)),
            "wrong bias": (source, faulty(source, folder)),
            "large outputs": tuple(large_outputs(folder)),
        }
        for command in arguments.commands:
            for what, (one, other) in pairs.items():
                run = run_process([sys.executable, "-m", "onnxopt", command, str(one), str(other)])
                allowed = 2 * size_mb(one) + _ALLOWED_MB
                over |= run.peak_mb > allowed or run.code not in (0, 3)
                last = (run.output.strip().splitlines() or [""])[-1]
                print(
                    f"{command:9} {what:14} {run.seconds:6.1f} s  {run.peak_mb:6.0f} MB of "
                    f"{allowed:.0f}  exit code {run.code}  {last[:80]}",
                    flush=True,
                )
    sys.exit(over)


if __name__ == "__main__":
    main()

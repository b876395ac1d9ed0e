"""Peak memory with 2 GB of external float32 weights that nothing folds.

    python benchmarks/big_model.py [--gigabytes 2]

Runs `onnxopt optimize --guard off` (the parity run would load the weights into ONNX Runtime) and,
for comparison, the other tools; prints seconds and peak memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import run_process
from tools import TOOLS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=int, default=2)
    parser.add_argument("--tools", nargs="+", default=["onnxopt --guard off"])
    arguments = parser.parse_args()
    source = materialize(find_model(f"big_external_{arguments.gigabytes}gb"))
    for tool in TOOLS:
        if tool.name not in arguments.tools:
            continue
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            run = run_process(tool.shell(source, Path(folder, "out.onnx")))
            status = "" if run.code == 0 else f"  fails: {run.output.strip()[-150:]}"
            print(f"{tool.name:20} {run.seconds:6.1f} s  {run.peak_mb:8.0f} MB{status}", flush=True)


if __name__ == "__main__":
    main()

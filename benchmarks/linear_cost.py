"""Cost against size: a Swin-like graph with one and with ten times the nodes.

    python benchmarks/linear_cost.py [--scale 10]

Prints seconds (load, optimize, save, in process) and their ratio: at most 12 for 10 times the
nodes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import run_process
from side_by_side import count_nodes
from tools import TOOLS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from cache import materialize
from registry import model as find_model


def seconds(source: Path, repeat: int) -> float:
    tool = next(tool for tool in TOOLS if tool.name == "onnxopt --guard off")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeat):
            run = run_process(tool.timed(source, Path(folder, "out.onnx")))
            if run.code:
                sys.exit(run.output)
            times += [float(t.split()[1]) for t in run.output.splitlines() if t[:7] == "SECONDS"]
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    small = materialize(find_model("swin_like_1"))
    large = materialize(find_model(f"swin_like_{arguments.scale}"))
    before, after = seconds(small, arguments.repeat), seconds(large, arguments.repeat)
    nodes = count_nodes(large) / count_nodes(small)
    print(f"{count_nodes(small):,} nodes: {before:.2f} s")
    print(f"{count_nodes(large):,} nodes: {after:.2f} s")
    print(f"{nodes:.1f} times the nodes take {after / before:.1f} times as long")


if __name__ == "__main__":
    main()

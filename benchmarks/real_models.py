"""Every model of a folder through every tool: does it still load, and does it still agree?

    python benchmarks/real_models.py FOLDER [--tools onnxopt onnxsim onnxslim onnxscript]

A model counts as broken by a tool if the tool fails, or if ONNX Runtime cannot load or run the
result, or if the result differs from the original beyond its own noise. Models that ONNX Runtime
cannot run in the first place only have to survive.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from measuring import run_process
from side_by_side import count_nodes
from tools import TOOLS

from onnxopt.core.errors import OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.plan import plan_inputs
from onnxopt.runtime.parity.check import check_parity


def verdict(source: Path, target: Path) -> str:
    """What became of a model: a line that starts with "ok" or "BROKEN"."""
    try:
        original, result = load_model(source), load_model(target)
        parity = check_parity(original, result, input_sets=plan_inputs(original))
    except OnnxOptError as error:
        return f"BROKEN: {error}"
    if parity.status == "failed":
        return f"BROKEN: {parity.reasons[0]}"
    nodes = f"{count_nodes(source)} -> {count_nodes(target)} nodes"
    return f"ok, {nodes}" if parity.status == "passed" else f"ok, not run, {nodes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tools", nargs="+", default=["onnxopt"])
    arguments = parser.parse_args()
    tools = [tool for tool in TOOLS if tool.name in arguments.tools]
    broken: Counter[str] = Counter()
    models = sorted(arguments.folder.rglob("*.onnx"))
    for source in models:
        for tool in tools:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder, "model.onnx")
                run = run_process(tool.shell(source, target))
                if run.code or not target.exists():
                    lines = run.output.strip().splitlines()
                    outcome = f"BROKEN: {lines[-1] if lines else 'no output'}"
                else:
                    outcome = verdict(source, target)
            broken[tool.name] += outcome.startswith("BROKEN")
            name = source.relative_to(arguments.folder)
            print(f"{name!s:60} {tool.name:12} {run.seconds:6.1f} s  {outcome[:150]}", flush=True)
    for tool in tools:
        print(f"{tool.name}: {broken[tool.name]} of {len(models)} broken")
    sys.exit(bool(broken["onnxopt"]))


if __name__ == "__main__":
    main()

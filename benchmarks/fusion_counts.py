"""Fused operators in every export of a folder that `fusion_zoo.py` made: docs/fusions.md.

    python benchmarks/fusion_zoo.py FOLDER
    python benchmarks/fusion_counts.py FOLDER [--target cuda]

Exports of one family with the same counts share a row; a family with several rows is one where the
exporters do not lead to the same graph.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import onnx

import onnxopt
from onnxopt.core.errors import OnnxOptError

OPERATORS = (
    "MultiHeadAttention",
    "GroupQueryAttention",
    "Softmax",
    "RotaryEmbedding",
    "LayerNormalization",
)


def counts(path: Path, target: str) -> tuple[str, ...]:
    """How often each operator is in the optimized model, or why there is none at parity."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "model.onnx")
        try:
            onnxopt.optimize(path, output, target=target)
        except OnnxOptError as error:
            return (f"fails: {str(error)[:100]}",)
        found = Counter(node.op_type for node in onnx.load(output).graph.node)
    return tuple(str(found[name]) for name in OPERATORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="cuda")
    arguments = parser.parse_args()
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for path in sorted(arguments.folder.glob("*.onnx")):
        family, _, export = path.stem.partition(".")
        rows.setdefault((family, counts(path, arguments.target)), []).append(export)
    print("| family | exports | " + " | ".join(OPERATORS) + " |")
    print("|---" * (len(OPERATORS) + 2) + "|")
    for (family, found), exports in rows.items():
        print(f"| {family} | {', '.join(exports)} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()

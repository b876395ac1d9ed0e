"""Fused operators in every export that `fusion_zoo.py` made, by three optimizers: docs/fusions.md.

    python benchmarks/fusion_zoo.py FOLDER
    python benchmarks/fusion_counts.py FOLDER [--families NAME ...] [--write docs/fusions.md]

onnxopt for CUDA, ONNX Runtime's transformer optimizer with the model type of the family, and
onnxscript's ort_fusions. Exports of one family with the same results share a row.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from fusion_families import FAMILIES, Family
from fusion_tools import TOOLS, run

_MARKS = {"passed": "", "failed": " ≠", "not-run": " ✗"}
_TITLES = ("onnxopt", "onnxruntime.transformers", "onnxscript ort_fusions")


def measure(family: Family, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of every tool for each export of a family."""
    paths = sorted(folder.glob(f"{family.name}.*.onnx"))
    by_tool = [run(tool, family.ort_type, paths) for tool in TOOLS]
    exports = [path.stem.partition(".")[2] for path in paths]
    return {
        export: list(found)
        for export, found in zip(exports, zip(*by_tool, strict=True), strict=True)
    }


def cell(result: dict[str, Any], expected: tuple[int, ...]) -> str:
    """The three counts; bold if all layers are there and the result is right."""
    if "error" in result:
        return f"stops: {result['error'].partition(':')[0][:40]}"
    text = ", ".join(map(str, result["found"])) + _MARKS[result["parity"]]
    complete = all(got >= wanted for got, wanted in zip(result["found"], expected, strict=True))
    return f"**{text}**" if complete and result["parity"] == "passed" else text


def rows(family: Family, results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line of the table for all exports with the same results."""
    expected = (family.attentions, family.norms, family.activations)
    grouped: dict[tuple[str, ...], list[str]] = {}
    for export, by_tool in results.items():
        cells = tuple(cell(result, expected) for result in by_tool)
        grouped.setdefault(cells, []).append(export)
    wanted = ", ".join(map(str, expected))
    return [
        f"| {family.name} | {', '.join(exports)} | {wanted} | {' | '.join(cells)} |"
        for cells, exports in grouped.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="*", default=[family.name for family in FAMILIES])
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    parser.add_argument("--json", type=Path, help="also write the results as JSON")
    arguments = parser.parse_args()
    lines = [f"| family | exports | expected | {' | '.join(_TITLES)} |", "|---" * 6 + "|"]
    everything = {}
    for family in FAMILIES:
        if family.name in arguments.families:
            everything[family.name] = results = measure(family, arguments.folder)
            lines += rows(family, results)
            print(*lines[-len(rows(family, results)) :], sep="\n", flush=True)
    packages = ("onnxruntime", "onnxscript", "torch", "transformers")
    lines += [
        "",
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + ".",
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        before, begin, rest = page.partition("<!-- fusion-counts -->")
        _, end, after = rest.partition("<!-- /fusion-counts -->")
        table = "\n".join(["", *lines, ""])
        arguments.write.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

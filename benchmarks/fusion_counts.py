"""Fused operators in every export that `fusion_zoo.py` made, by three optimizers: docs/fusions.md.

    python benchmarks/fusion_zoo.py FOLDER
    python benchmarks/fusion_counts.py FOLDER [--families NAME ...] [--write docs/fusions.md]

onnxopt for CUDA, ONNX Runtime's transformer optimizer with the model type of the family, and
onnxscript's ort_fusions; every result is run beside its original on ONNX Runtime's CPU provider.
Exports of one family with the same results share a row.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
from pathlib import Path

from fusion_families import FAMILIES, HEADS, WIDTHS, Family
from fusion_tools import TOOLS, Job, found, run

from onnxopt.runtime.parity.check import ParityCheck

_TITLES = ("onnxopt", "onnxruntime.transformers", "onnxscript ort_fusions")
_MARKS = {"passed": "", "failed": " ≠", "not-run": " ✗"}


def cell(result: Path, check: ParityCheck, expected: tuple[int, ...]) -> str:
    """The three counts; bold if all layers are there and the result computes the same."""
    counts = found(result)
    status = check.check(result).status
    text = ", ".join(map(str, counts)) + _MARKS[status]
    complete = all(got >= wanted for got, wanted in zip(counts, expected, strict=True))
    return f"**{text}**" if complete and status == "passed" else text


def rows(
    family: Family, paths: list[Path], results: dict[str, dict[Path, Path | str]]
) -> list[str]:
    """The lines of one family; `results` has a file, or the reason why there is none."""
    expected = (family.attentions, family.norms, family.activations)
    grouped: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        check = ParityCheck(path)
        cells = []
        for tool in TOOLS:
            result = results[tool][path]
            stops = isinstance(result, str)
            cells.append(f"stops: {result}" if stops else cell(Path(result), check, expected))
        grouped.setdefault(tuple(cells), []).append(path.stem.partition(".")[2])
    wanted = ", ".join(map(str, expected))
    return [
        f"| {family.name} | {', '.join(exports)} | {wanted} | {' | '.join(cells)} |"
        for cells, exports in grouped.items()
    ]


def measure(families: list[Family], folder: Path) -> dict[str, list[str]]:
    """The lines of several families."""
    exports = {one.name: sorted(folder.glob(f"{one.name}.*.onnx")) for one in families}
    jobs = [
        Job(path, one.ort_type, HEADS, WIDTHS.get(one.name, WIDTHS[""]))
        for one in families
        for path in exports[one.name]
    ]
    with tempfile.TemporaryDirectory() as work:
        results: dict[str, dict[Path, Path | str]] = {}
        for tool in TOOLS:
            errors = run(tool, jobs, Path(work, tool))
            results[tool] = {
                job.path: reason(errors[job.path])
                if job.path in errors
                else Path(work, tool, job.path.name)
                for job in jobs
            }
        return {one.name: rows(one, exports[one.name], results) for one in families}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="*", default=[family.name for family in FAMILIES])
    parser.add_argument("--write", type=Path, help="replace the table in this page")
    arguments = parser.parse_args()
    kept = arguments.folder / "counts.json"  # of the families that were measured before
    known: dict[str, list[str]] = json.loads(kept.read_text()) if kept.exists() else {}
    chosen = [family for family in FAMILIES if family.name in arguments.families]
    known |= measure(chosen, arguments.folder)
    kept.write_text(json.dumps(known, indent=1))
    lines = [f"| family | exports | expected | {' | '.join(_TITLES)} |", "|---" * 6 + "|"]
    lines += [line for family in FAMILIES for line in known.get(family.name, [])]
    packages = ("onnxruntime", "onnxscript", "torch", "transformers")
    lines += [
        "",
        ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + ".",
    ]
    print(*lines, sep="\n")
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        before, begin, rest = page.partition("<!-- fusion-counts -->")
        _, end, after = rest.partition("<!-- /fusion-counts -->")
        table = "\n".join(["", "", *lines, ""])
        arguments.write.write_text(f"{before}{begin}{table}{end}{after}", encoding="utf-8")


def reason(error: str) -> str:
    """The kind of error, short enough for a cell."""
    return error.replace("|", "/").partition(":")[0][:40]


if __name__ == "__main__":
    main()

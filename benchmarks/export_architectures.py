"""Exports one small model of every architecture and writes the table of docs/export.md.

python benchmarks/export_architectures.py                 all, and the table
python benchmarks/export_architectures.py Llama "GPT-2"   only these, printed
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

from tiny_transformers import NAMES, save  # noqa: E402

import onnxopt  # noqa: E402
from onnxopt.core.errors import OnnxOptError  # noqa: E402
from onnxopt.export.requirements import versions  # noqa: E402

PAGE = ROOT / "docs" / "export.md"


def rows_of(name: str, folder: Path) -> list[str]:
    """The rows of one architecture, one for each file."""
    try:
        source = save(name, folder / "source")
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return [f"| {name} | | | not built: {' '.join(str(error).split())[:100]} | |"]
    try:
        result = onnxopt.export(source, folder / "out")
    except OnnxOptError as error:
        return [f"| {name} | | | not exported: {error} | |".replace(str(folder), "")]
    rows = []
    for one in result.files:
        label = name if len(result.files) == 1 else f"{name}, {one.file.removesuffix('.onnx')}"
        others = "; ".join(reason(c) for c in one.candidates if not c["kept"])
        rows.append(
            f"| {label} | {symbols(one.inputs)} | {one.largest_error:.0e} ({len(one.checked)}) "
            f"| {one.exporter} | {others} |"
        )
    return rows


def symbols(inputs: dict[str, Any]) -> str:
    """Names of the dynamic axes."""
    found = [dim for shape in inputs.values() for dim in shape if isinstance(dim, str)]
    return ", ".join(s for s in dict.fromkeys(found) if " + " not in s)


def reason(candidate: dict[str, Any]) -> str:
    """Why a candidate was not kept, in a few words."""
    speed = candidate["speed"]
    if speed is not None:
        return f"{candidate['exporter']}: {speed['median']:.2f}x as fast"
    text = candidate["rejected"].replace("|", "/")
    if "as fast, once optimized" in text:
        text = "slower"
    return f"{candidate['exporter']}: {text[:110]}"


def main() -> None:
    names = sys.argv[1:] or list(NAMES)
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    table = [
        "| architecture | dynamic axes | largest relative error (shapes) | kept | the others |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows = rows_of(name, Path(folder))
        print(*rows, sep="\n", flush=True)
        table += rows
        gc.collect()
    if sys.argv[1:]:
        return
    kind = "optimum" if "optimum-onnx" in versions() else "direct"
    start, end = f"<!-- {kind} -->", f"<!-- /{kind} -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(start)
    after = rest.partition(end)[2]
    text = f"{before}{start}\nWith {found}:\n\n" + "\n".join(table) + f"\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

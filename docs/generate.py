"""Writes the parts of the documentation that follow from the code.

python docs/generate.py          rewrite them
python docs/generate.py --check  fail if they are out of date
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from onnxopt.passes import PASSES

README = Path(__file__).resolve().parent.parent / "README.md"
START, END = "<!-- passes -->", "<!-- /passes -->"


def pass_table() -> str:
    """One row per pass: its name and the first line of its docstring."""
    rows = [f"| `{cls.name}` | {(inspect.getdoc(cls) or '').splitlines()[0]} |" for cls in PASSES]
    return "\n".join(["| pass | what it does |", "|---|---|", *rows])


def main() -> None:
    """Rewrites or checks the README."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    wanted = f"{before}{START}\n{pass_table()}\n{END}{after}"
    if "--check" in sys.argv and wanted != text:
        sys.exit("README.md: the table of passes is out of date; run python docs/generate.py")
    README.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()

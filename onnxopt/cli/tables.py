"""Tables for a person: plain columns, numbers to the right, nothing cut off in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt.cli.output import say


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a header; columns whose cells start with a digit are set to the right."""
    if not rows:
        return
    widths = [max(len(header[i]), *(len(row[i]) for row in rows)) for i in range(len(header))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in ("-", "?", "+") or cell in ("nan", "inf")

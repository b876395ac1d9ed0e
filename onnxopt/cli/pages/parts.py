"""Parts of a page: tables, bars, intervals, regions. All text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from onnxopt.core.errors import SaveError
from onnxopt.graph.loading import load_model
from onnxopt.graph.precision_regions import Region, precision_regions

STYLE = """
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92em; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; }
.fact { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; }
.fact b { display: block; font-size: 1.15rem; overflow-wrap: anywhere; }
.bad { color: var(--own); } .strip { display: flex; height: 2.2rem; border: 1px solid var(--line); }
.strip span { display: block; min-width: 1px; } .key span { margin-right: 1rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
"""
_WIDTH, _LEFT, _RIGHT, _ROW = 960, 300, 130, 24
_LONGEST_NAME = 42
# The colour of a precision: the more it saves, the stronger.
_COLORS = {
    "float32": "var(--c0)",
    "float64": "var(--c5)",
    "float16": "var(--c2)",
    "bfloat16": "var(--c2)",
    "int8": "var(--c1)",
    "int8 weights": "var(--c1)",
    "int4 weights": "var(--c3)",
    "integers": "var(--line)",
}


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Boxes with a name and a figure each."""
    boxes = (
        f'<div class="fact"><span class="soft">{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in pairs
    )
    return f'<div class="facts">{"".join(boxes)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are set to the right."""
    numeric = [
        bool(rows) and all(isinstance(row[column], (int, float)) for row in rows)
        for column in range(len(header))
    ]
    head = "".join(_cell("th", name, n) for name, n in zip(header, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def bars(rows: Sequence[tuple[str, float, str]], caption: str, *, logarithmic: bool = False) -> str:
    """Horizontal bars.

    Args:
        rows: Name, length, and the text beside it.
        caption: What the lengths are.
        logarithmic: Lengths are shown by their order of magnitude.
    """
    lengths = _lengths([value for _, value, _ in rows], logarithmic)
    space = _WIDTH - _LEFT - _RIGHT
    marks = []
    for index, ((name, _, text), length) in enumerate(zip(rows, lengths, strict=True)):
        y = index * _ROW + 4
        shown = name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"
        marks.append(
            f'<text class="name" x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(shown)}'
            f"<title>{escape(name)}</title></text>"
            f'<rect x="{_LEFT}" y="{y}" width="{max(1.0, length * space):.1f}" height="{_ROW - 8}" '
            f'style="fill: var(--c0)"/><text x="{_LEFT + length * space + 6:.1f}" '
            f'y="{y + 13}">{escape(text)}</text>'
        )
    height = len(rows) * _ROW + 24
    marks.append(
        f'<text x="{_LEFT}" y="{height - 6}">{escape(caption)}'
        f"{' (logarithmic)' if logarithmic else ''}</text>"
    )
    view = f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(caption)}"'
    return f'<div class="plot"><svg {view}>{"".join(marks)}</svg></div>'


def interval(ratio: Mapping[str, float], caption: str) -> str:
    """A ratio with its interval, and the line of no difference."""
    low, high = min(0.9, ratio["low"] * 0.97), max(1.1, ratio["high"] * 1.03)

    def place(value: float) -> float:
        return 20 + (value - low) / (high - low) * (_WIDTH - 40)

    one, y = place(1.0), 30
    ends = [place(ratio[name]) for name in ("low", "median", "high")]
    label = f"{ratio['median']:.2f} (95 %: {ratio['low']:.2f} to {ratio['high']:.2f})"
    return (
        f'<div class="plot"><svg viewBox="0 0 {_WIDTH} 72" role="img" aria-label="{escape(caption)}'
        f' {label}"><line x1="{one:.1f}" y1="8" x2="{one:.1f}" y2="52" '
        'style="stroke: var(--soft)" stroke-dasharray="4 4"/>'
        f'<text x="{one + 5:.1f}" y="18">1</text>'
        f'<line x1="{ends[0]:.1f}" y1="{y}" x2="{ends[2]:.1f}" y2="{y}" '
        'style="stroke: var(--c1)" stroke-width="3"/>'
        f'<circle cx="{ends[1]:.1f}" cy="{y}" r="6" style="fill: var(--c1)"/>'
        f'<text x="20" y="66">{escape(caption)}: {label}</text></svg></div>'
    )


def strip(regions: Sequence[Region]) -> str:
    """The graph from its first node to its last, coloured by precision, with a key."""
    total = sum(region.nodes for region in regions) or 1
    spans = []
    for region in regions:
        words = ", ".join(f"{count} {op}" for op, count in region.operators.items())
        title = f"{region.precision}: {region.first} to {region.last} ({words})"
        spans.append(
            f'<span title="{escape(title[:500])}" style="width: {region.nodes / total:.3%}; '
            f'background: {_color(region.precision)}"></span>'
        )
    counts: dict[str, int] = {}
    for region in regions:
        counts[region.precision] = counts.get(region.precision, 0) + region.nodes
    key = "".join(
        f'<span><i style="background: {_color(name)}"></i>{escape(name)}: {count} nodes</span>'
        for name, count in counts.items()
    )
    return f'<div class="strip">{"".join(spans)}</div><p class="key soft">{key}</p>'


def notes(lines: Sequence[str]) -> list[str]:
    """Notes and warnings as a list; nothing if there are none."""
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return ["<h2>Notes</h2>", f"<ul>{items}</ul>"]


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.2f} MB"


def regions_of(path: str) -> list[Region]:
    """The regions of a model that was written; none if nothing was."""
    return precision_regions(load_model(path).graph) if path else []


def write_page(text: str, path: Path) -> None:
    """Writes a page.

    Raises:
        SaveError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SaveError(f"cannot write the page {path}: {error.strerror}") from error


def _cell(tag: str, value: object, numeric: bool) -> str:
    shown = f"{value:,.6g}" if isinstance(value, float) else str(value)
    style = ' class="n"' if numeric else ""
    return f"<{tag}{style}>{escape(shown)}</{tag}>"


def _lengths(values: Sequence[float], logarithmic: bool) -> list[float]:
    """Shares of the longest bar."""
    finite = [value for value in values if value > 0 and math.isfinite(value)]
    if not finite:
        return [0.0 for _ in values]
    if not logarithmic:
        return [max(0.0, min(1.0, value / max(finite))) for value in values]
    low, high = math.log10(min(finite)) - 0.5, math.log10(max(finite))
    return [
        min(1.0, (math.log10(value) - low) / (high - low)) if value > 0 else 0.0 for value in values
    ]


def _color(precision: str) -> str:
    return _COLORS.get(precision, "var(--c4)")

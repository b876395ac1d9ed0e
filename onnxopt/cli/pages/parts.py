"""Parts of a page: boxes, tables, notes. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from onnxopt.core.errors import SaveError

STYLE = """
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .92em; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; }
.fact { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; }
.fact b { display: block; font-size: 1.15rem; overflow-wrap: anywhere; }
.bad { color: var(--own); } .strip { display: flex; height: 2.2rem; border: 1px solid var(--line); }
.strip span { display: block; } .key span { margin-right: 1rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; }
.bars { display: grid; grid-template-columns: fit-content(45%) 1fr max-content;
  gap: .3rem .6rem; align-items: center; font-size: .9em; }
.bars .name { text-align: right; overflow-wrap: anywhere; }
.bars .n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars .bar i { display: block; height: .95rem; min-width: 1px; background: var(--c0); }
svg.ratio { height: 48px; min-width: 0; }
details { margin: .4rem 0; } summary { cursor: pointer; color: var(--soft); }
"""


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


def changes(rows: Sequence[tuple[str, float, float]]) -> str:
    """A table of figures before and after."""
    shown = []
    for name, before, after in rows:
        change = "-" if not before else f"{after / before - 1:+.1%}"
        shown.append((name, _figure(before), _figure(after), change))
    return table(("", "before", "after", "change"), shown)


def model_name(source: str) -> str:
    """What to call a model: its file, without the user's folders."""
    return Path(source).name if source else "a model in memory"


def notes(lines: Sequence[str]) -> list[str]:
    """Notes and warnings as a list; nothing if there are none."""
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return ["<h2>Notes</h2>", f"<ul>{items}</ul>"]


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.2f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def write_page(text: str, path: Path) -> None:
    """Writes a page.

    Raises:
        SaveError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SaveError(f"cannot write the page {path}: {error.strerror}") from error


def _figure(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def _cell(tag: str, value: object, numeric: bool) -> str:
    shown = f"{value:,.6g}" if isinstance(value, float) else str(value)
    style = ' class="n"' if numeric else ""
    return f"<{tag}{style}>{escape(shown)}</{tag}>"

"""A diagnosis as one page: the error along the graph, and the nodes at fault. Loads nothing."""

from __future__ import annotations

from html import escape

from onnxopt.runtime.error_plot import error_plot
from onnxopt.runtime.finding import Diagnosis, Finding

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #667; --line: #d5d9e0;
  --total: #2f6fb2; --own: #c8472f; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181d; --ink: #e4e7ec; --soft: #98a0ad;
  --line: #333a45; --total: #6fa8e6; --own: #f0836c; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1060px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p, li { overflow-wrap: anywhere; } .soft { color: var(--soft); }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .total { stroke: var(--total); fill: none; stroke-width: 1.5; }
.tolerance { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.dot { fill: var(--own); opacity: .45; } .fault { fill: var(--own); }
.key-total { fill: var(--total); } ol > li { margin-bottom: 1rem; }
code { font-size: .92em; }
"""
_SHOWN = 30


def diagnosis_page(diagnosis: Diagnosis, names: tuple[str, str]) -> str:
    """The page as HTML.

    Args:
        diagnosis: What to show.
        names: What to call the two models.
    """
    first, second = map(escape, names)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{second} against {first}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{second} against {first}</h1>",
        f"<p><b>{escape(diagnosis.headline)}</b></p>",
        f'<p class="soft">On {escape(diagnosis.inputs)}; {diagnosis.values} values are in both '
        "models.</p>",
    ]
    if diagnosis.points:
        parts += ["<h2>Error along the graph</h2>", error_plot(diagnosis)]
    if diagnosis.findings:
        parts += [f"<h2>{escape(diagnosis.title)}</h2>", "<ol>"]
        parts += [_item(finding) for finding in diagnosis.findings[:_SHOWN]]
        parts.append("</ol>")
        more = len(diagnosis.findings) - _SHOWN
        if more > 0:
            parts.append(f'<p class="soft">and {more} more</p>')
    parts += [f'<p class="soft">Note: {escape(note)}</p>' for note in diagnosis.notes]
    return "\n".join([*parts, "</body></html>", ""])


def _item(finding: Finding) -> str:
    head, *rest = (escape(line.strip()) for line in finding.lines())
    lines = "<br>".join(rest)
    return f"<li><code>{head}</code><br>{lines}</li>"

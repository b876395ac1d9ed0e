"""A diagnosis as one page: the error along the graph, and the nodes at fault. Loads nothing."""

from __future__ import annotations

from html import escape

from onnxopt.runtime.diagnosis.error_plot import error_plot
from onnxopt.runtime.diagnosis.finding import Diagnosis, Finding
from onnxopt.runtime.page import page

_STYLE = """.grid { stroke: var(--line); fill: none; }
.total { stroke: var(--total); fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.dot { fill: var(--own); opacity: .5; } .fault { fill: var(--own); stroke: var(--paper); }
.key-total { fill: var(--total); }
"""
_SHOWN = 30


def diagnosis_page(diagnosis: Diagnosis, names: tuple[str, str]) -> str:
    """The page as HTML.

    Args:
        diagnosis: What to show.
        names: What to call the two models.
    """
    title = f"{names[1]} against {names[0]}"
    where = f"On {diagnosis.inputs}; {diagnosis.values} values are in both models."
    parts = [f"<p><b>{escape(diagnosis.headline)}</b></p>"]
    if diagnosis.values:
        parts.append(f'<p class="soft">{escape(where)}</p>')
    if diagnosis.points:
        plot = error_plot(diagnosis)
        parts += ["<h2>Error along the graph</h2>", f'<div class="plot">{plot}</div>']
    if diagnosis.findings:
        parts += [f"<h2>{escape(diagnosis.title)}</h2>", "<ol>"]
        parts += [_item(finding) for finding in diagnosis.findings[:_SHOWN]]
        parts.append("</ol>")
        more = len(diagnosis.findings) - _SHOWN
        if more > 0:
            parts.append(f'<p class="soft">and {more} more</p>')
    parts += [f'<p class="soft">Note: {escape(note)}</p>' for note in diagnosis.notes]
    return page(title, title, parts, _STYLE)


def _item(finding: Finding) -> str:
    head, *rest = (escape(line.strip()) for line in finding.lines())
    lines = "".join(f"<li>{line}</li>" for line in rest)
    return f"<li><code>{head}</code><ul>{lines}</ul></li>"

"""Draws a pruning: what the units of each group cost, and where each group was cut."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.pruning.report import GroupEntry, PruningReport

_WIDTH, _LEFT, _RIGHT, _ROW = 1000, 300, 110, 26
# A bar has at most so many cells; each holds the mean of its units.
_MOST_CELLS = 96
# Costs over so many powers of ten are told apart.
_DECADES = 4.0


def draw(report: PruningReport, path: Path) -> None:
    """Writes a .html with an inline SVG.

    Raises:
        InvalidInputError: The path does not end in .html.
        SaveError: The file cannot be written.
    """
    if path.suffix != ".html":
        raise InvalidInputError(f"--report {path}: write to a .html file")
    try:
        path.write_text(to_html(report), encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{path}: cannot write the plot: {error}") from error


def to_html(report: PruningReport) -> str:
    """A page that needs nothing but itself."""
    name = report.source or "model"
    left_alone = sorted({entry.reason for entry in report.groups if entry.reason})
    parts = [
        f'<p class="soft">{escape(report.goal)}: {report.reached:.1%} is left</p>',
        "<h2>Groups in the order of the graph</h2>",
        '<p class="soft">Units in the order in which they go, darker ones cost more (logarithmic, '
        "as a share of the energy of what reads them). Right of the mark they stayed.</p>",
        _bars(report.groups),
        *(f'<p class="soft">Left alone: {escape(reason)}</p>' for reason in left_alone),
        *(f'<p class="soft">Note: {escape(note)}</p>' for note in report.notes),
    ]
    return page(name, f"Pruning of {name}", parts)


def _bars(groups: list[GroupEntry]) -> str:
    costs = [cost for entry in groups for cost in entry.costs if cost > 0]
    top = max(costs, default=1.0)
    marks = []
    for index, entry in enumerate(groups):
        marks += _bar(entry, 6 + _ROW * index, top)
    height = 12 + _ROW * len(groups)
    view = f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Importance and widths"'
    return f'<div class="plot"><svg {view}>\n' + "\n".join(marks) + "\n</svg></div>"


def _bar(entry: GroupEntry, top: float, largest: float) -> list[str]:
    span = _WIDTH - _LEFT - _RIGHT
    shown = entry.name if len(entry.name) <= 42 else f"...{entry.name[-39:]}"
    title = f"<title>{escape(entry.name)}: {entry.kind}</title>"
    marks = [
        f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end" class="name">{title}'
        f"{escape(shown)}</text>",
        f'<text x="{_WIDTH - 4}" y="{top + 15}" text-anchor="end">{entry.units} to {entry.kept}'
        "</text>",
    ]
    cells = _cells(entry.costs, largest)
    width = span / max(1, len(cells))
    for place, opacity in enumerate(cells):
        marks.append(
            f'<rect x="{_LEFT + place * width:.1f}" y="{top}" width="{width + 0.3:.1f}" '
            f'height="{_ROW - 6}" style="fill: var(--c0)" fill-opacity="{opacity:.2f}"/>'
        )
    if not cells:
        marks.append(
            f'<rect x="{_LEFT}" y="{top}" width="{span}" height="{_ROW - 6}" '
            'style="fill: none; stroke: var(--line)"/>'
        )
    x = _LEFT + span * (entry.units - entry.kept) / max(1, entry.units)
    marks.append(
        f'<line x1="{x:.1f}" y1="{top - 3}" x2="{x:.1f}" y2="{top + _ROW - 3}" '
        'style="stroke: var(--own); stroke-width: 2.5"/>'
    )
    return marks


def _cells(costs: tuple[float, ...], largest: float) -> list[float]:
    """Opacities by the mean cost of a run of units."""
    if not costs:
        return []
    per_cell = -(-len(costs) // _MOST_CELLS)
    means = [
        sum(costs[start : start + per_cell]) / len(costs[start : start + per_cell])
        for start in range(0, len(costs), per_cell)
    ]
    floor = largest * 10**-_DECADES
    return [
        0.08 + 0.92 * max(0.0, 1 + math.log10(max(mean, floor) / largest) / _DECADES)
        for mean in means
    ]

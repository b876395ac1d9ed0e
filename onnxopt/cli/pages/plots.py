"""Plots of a page, as wide as the page is: bars, and a ratio with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

# A little room at both ends of an axis, in percent.
_MARGIN = 3.0


def bars(rows: Sequence[tuple[str, float, str]], caption: str, *, logarithmic: bool = False) -> str:
    """Horizontal bars.

    Args:
        rows: Name, length, and the text beside it.
        caption: What the lengths are.
        logarithmic: Lengths are shown by their order of magnitude.
    """
    lengths = _lengths([value for _, value, _ in rows], logarithmic)
    marks = "".join(
        f'<span class="name" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="bar"><i style="width: {length:.2%}"></i></span>'
        f'<span class="n">{escape(text)}</span>'
        for (name, _, text), length in zip(rows, lengths, strict=True)
    )
    scale = " (logarithmic)" if logarithmic else ""
    return f'<div class="bars">{marks}</div><p class="soft">{escape(caption)}{scale}</p>'


def interval(ratio: Mapping[str, float], caption: str) -> str:
    """A ratio with its interval, and the line of no difference."""
    low, high = min(0.9, ratio["low"] * 0.97), max(1.1, ratio["high"] * 1.03)

    def place(value: float) -> str:
        return f"{_MARGIN + (value - low) / (high - low) * (100 - 2 * _MARGIN):.2f}%"

    one = place(1.0)
    first, median, last = (place(ratio[name]) for name in ("low", "median", "high"))
    label = f"{ratio['median']:.2f} (95 %: {ratio['low']:.2f} to {ratio['high']:.2f})"
    return (
        f'<svg class="ratio" role="img" aria-label="{escape(caption)} {label}">'
        f'<line x1="{one}" y1="14" x2="{one}" y2="44" style="stroke: var(--soft)" '
        f'stroke-dasharray="4 4"/><text x="{one}" y="10" text-anchor="middle">1</text>'
        f'<line x1="{first}" y1="29" x2="{last}" y2="29" '
        'style="stroke: var(--c1)" stroke-width="3"/>'
        f'<circle cx="{median}" cy="29" r="6" style="fill: var(--c1)"/></svg>'
        f'<p class="soft">{escape(caption)}: {label}</p>'
    )


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

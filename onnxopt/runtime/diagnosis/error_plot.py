"""The error along the graph as inline SVG, on a logarithmic scale."""

from __future__ import annotations

import math
from html import escape

from onnxopt.runtime.diagnosis.finding import Diagnosis, Point
from onnxopt.runtime.parity.difference import Difference

_WIDTH, _HEIGHT = 1000, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 40
_EXACT = 24  # height of the strip at the bottom for values without any error
_SMALLEST, _LARGEST = 1e-9, 10.0  # what the scale can show
# More than one mark for each pixel only makes the file larger.
_MOST_POINTS = 2000
_MOST_TICKS = 8


def error_plot(diagnosis: Diagnosis) -> str:
    """A line of the error in all, and a dot for what each part adds itself.

    The line leads through numbers that differ: shapes, and what is computed from weights alone,
    are exact in between.
    """
    points = _thinned(list(diagnosis.points), {f.point.value for f in diagnosis.findings})
    faults = {finding.point.value for finding in diagnosis.findings if finding.at_fault}
    scale = _Scale(points)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Relative error of each value in the order of the graph">'
    ]
    parts += scale.grid()
    line = [
        (p, y) for p in points if p.total and p.total.kind == "float" and (y := _error(p.total))
    ]
    path = " ".join(
        f"{'M' if i == 0 else 'L'}{scale.x(p):.1f} {scale.y(y):.1f}"
        for i, (p, y) in enumerate(line)
    )
    parts.append(f'<path class="total" d="{path}"/>')
    for point in points:
        own = _error(point.own)
        if own is None:
            continue
        fault = point.value in faults
        place = f'cx="{scale.x(point):.1f}" cy="{scale.y(own):.1f}"'
        title = escape(f"{point.node}: own error {_text(own)}, in all {_text(_error(point.total))}")
        parts.append(
            f'<circle class="{"fault" if fault else "dot"}" {place} r="{5 if fault else 2}">'
            f"<title>{title}</title></circle>"
        )
    parts += _legend()
    return "\n".join([*parts, "</svg>"])


class _Scale:
    def __init__(self, points: list[Point]) -> None:
        self._first = min(p.position for p in points)
        self._last = max(max(p.position for p in points), self._first + 1)
        errors = [e for p in points for d in (p.total, p.own) if (e := _error(d))]
        shown = [min(max(e, _SMALLEST), _LARGEST) for e in errors] or [_SMALLEST]
        self._low = math.floor(math.log10(min(shown)))
        self._high = max(math.ceil(math.log10(max(shown))), self._low + 1)

    def x(self, point: Point) -> float:
        share = (point.position - self._first) / (self._last - self._first)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, error: float) -> float:
        if not error:
            return _HEIGHT - _BOTTOM
        power = math.log10(min(max(error, 10.0**self._low), 10.0**self._high))
        share = (power - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - _EXACT - share * (_HEIGHT - _TOP - _BOTTOM - _EXACT)

    def grid(self) -> list[str]:
        lines = []
        step = -(-(self._high - self._low) // _MOST_TICKS)
        ticks = [(self.y(10.0**p), f"1e{p}") for p in range(self._low, self._high + 1, step)]
        for y, label in [(self.y(0.0), "0"), *ticks]:
            lines.append(
                f'<path class="grid" d="M{_LEFT} {y:.1f} H{_WIDTH - _RIGHT}"/>'
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
            )
        lines.append(
            f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">'
            f"nodes {self._first} to {self._last}, in the order of the graph</text>"
        )
        return lines


def _legend() -> list[str]:
    return [
        f'<rect class="key-total" x="{_LEFT}" y="8" width="14" height="4"/>'
        f'<text x="{_LEFT + 20}" y="15">relative error in all</text>',
        f'<circle class="dot" cx="{_LEFT + 177}" cy="10" r="3"/>'
        f'<text x="{_LEFT + 186}" y="15">own error</text>',
        f'<circle class="fault" cx="{_LEFT + 277}" cy="10" r="5"/>'
        f'<text x="{_LEFT + 288}" y="15">own error beyond what is usual</text>',
    ]


def _error(found: Difference | None) -> float | None:
    """A difference as one number; infinite if it cannot be measured."""
    if found is None:
        return None
    if found.broken:
        return math.inf
    return found.rms if found.kind == "float" else found.mismatches


def _text(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.2g}"


def _thinned(points: list[Point], kept: set[str]) -> list[Point]:
    step = -(-len(points) // _MOST_POINTS)
    return [p for index, p in enumerate(points) if index % step == 0 or p.value in kept]

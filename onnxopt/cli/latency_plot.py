"""Draws a benchmark: how latencies are distributed, and the ratios with their intervals."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.core.errors import SaveError
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.runtime.measuring.benchmark_result import BenchmarkResult

_COLORS = tuple(f"var(--c{index})" for index in range(6))
_WIDTH, _LEFT, _RIGHT, _ROW = 960, 220, 210, 34
_TICKS = 5


def check_plot(path: Path) -> None:
    """Refuses a plot that could not be drawn, before anything is measured for it.

    Raises:
        MissingDependencyError: matplotlib is needed and not installed.
        SaveError: There is no such folder.
    """
    if path.suffix == ".png":
        from onnxopt.cli.latency_png import require_matplotlib

        require_matplotlib()
    if not path.absolute().parent.is_dir():
        raise SaveError(f"{path}: cannot write the plot: its folder does not exist")


def draw(result: BenchmarkResult, path: Path) -> None:
    """Writes a .html with an inline SVG, or a .png with matplotlib.

    Raises:
        MissingDependencyError: matplotlib is needed and not installed.
        SaveError: The file cannot be written.
    """
    try:
        if path.suffix == ".png":
            from onnxopt.cli.latency_png import draw_png

            draw_png(result, path)
        else:
            path.write_text(to_html(result), encoding="utf-8")
    except OSError as error:
        raise SaveError(f"{path}: cannot write the plot: {error}") from error


def to_html(result: BenchmarkResult) -> str:
    """A page that needs nothing but itself."""
    title = " and ".join(model.name for model in result.models)
    parts = [f'<p class="soft">{escape(result.inputs)}</p>', "<h2>Latency</h2>", _latencies(result)]
    if len(result.models) > 1:
        parts += ["<h2>Speed</h2>", _ratios(result)]
    parts += [f'<p class="soft">Note: {escape(note)}</p>' for note in result.notes]
    return page(title, f"Latency of {title}", parts)


def _latencies(result: BenchmarkResult) -> str:
    """A row for each model: a box from p10 to p90 with the median, a line to p99."""
    quantiles = [[m.percentile(p) * 1e3 for p in (1, 10, 50, 90, 99)] for m in result.models]
    # Logarithmic: one slow run of a hundred is often ten times as slow.
    low, high = min(row[0] for row in quantiles) * 0.9, max(row[-1] for row in quantiles) * 1.1
    marks = []
    for index, (model, row) in enumerate(zip(result.models, quantiles, strict=True)):
        middle, color = _middle(index), _COLORS[index % len(_COLORS)]
        places = [_place(math.log(value), math.log(low), math.log(high)) for value in row]
        first, tenth, median, ninetieth, last = places
        marks += [
            _label(middle, model.name),
            _line(first, middle, last, middle, color),
            f'<rect x="{tenth:.1f}" y="{middle - 9:.1f}" width="{max(ninetieth - tenth, 1):.1f}" '
            f'height="18" style="fill: {color}" fill-opacity="0.35"/>',
            _line(median, middle - 11, median, middle + 11, color, 3),
            f'<text x="{_WIDTH - 8}" y="{middle + 4:.1f}" text-anchor="end">'
            f"p50 {row[2]:.3f}, p99 {row[4]:.3f} ms</text>",
        ]
    caption = "milliseconds, logarithmic: median, p10 to p90 (box), p1 to p99 (line)"
    ticks = {
        f"{value:g}": _place(math.log(value), math.log(low), math.log(high))
        for value in _round_numbers(low, high)
    }
    return _figure(marks, len(quantiles), ticks, caption)


def _ratios(result: BenchmarkResult) -> str:
    """A row for each ratio: the median with its interval, and the line of no difference."""
    ratios = [(m.name, m.ratio) for m in result.models if m.ratio is not None]
    low = min(0.95, *(r.low for _, r in ratios)) - 0.02
    high = max(1.05, *(r.high for _, r in ratios)) + 0.02
    one = _place(1.0, low, high)
    marks = [_line(one, 8, one, 8 + _ROW * len(ratios), "var(--soft)")]
    for index, (name, ratio) in enumerate(ratios):
        middle, color = _middle(index), _COLORS[(index + 1) % len(_COLORS)]
        ends = [_place(value, low, high) for value in (ratio.low, ratio.median, ratio.high)]
        marks += [
            _label(middle, name),
            _line(ends[0], middle, ends[2], middle, color, 2),
            f'<circle cx="{ends[1]:.1f}" cy="{middle:.1f}" r="5" style="fill: {color}"/>',
            f'<text x="{_WIDTH - 8}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{ratio.median:.3f}x, {ratio.verdict}</text>",
        ]
    caption = f"times as fast as {result.models[0].name}, with the 95 % interval"
    ticks = {f"{value:g}": _place(value, low, high) for value in _even_numbers(low, high)}
    return _figure(marks, len(ratios), ticks, caption)


def _figure(marks: list[str], rows: int, ticks: dict[str, float], caption: str) -> str:
    bottom = 8 + _ROW * rows
    axis = [_line(_LEFT, bottom, _WIDTH - _RIGHT, bottom, "var(--line)")]
    for text, x in ticks.items():
        axis.append(_line(x, bottom, x, bottom + 5, "var(--line)"))
        axis.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    axis.append(
        f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{escape(caption)}</text>'
    )
    body = "\n".join([*axis, *marks])
    view = f'viewBox="0 0 {_WIDTH} {bottom + 44}" role="img" aria-label="{escape(caption)}"'
    return f'<div class="plot"><svg {view}>\n{body}\n</svg></div>'


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten; only the powers if these are many."""
    powers = [10.0**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return [f * power for power in powers for f in factors if low <= f * power <= high]


def _even_numbers(low: float, high: float) -> list[float]:
    """Multiples of a round step, among them 1."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 6) for index in range(first, last + 1)]


def _middle(index: int) -> float:
    return 8 + _ROW * (index + 0.6)


def _place(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)


def _label(y: float, name: str) -> str:
    shown = name if len(name) <= 32 else f"...{name[-29:]}"
    place = f'x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end"'
    return f'<text {place} class="name">{escape(shown)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'style="stroke: {color}" stroke-width="{width}"/>'
    )

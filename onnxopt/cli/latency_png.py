"""Draws a benchmark with matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from onnxopt.runtime.measuring.benchmark_result import BenchmarkResult


def require_matplotlib() -> None:
    """Raises a MissingDependencyError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "a .png needs matplotlib: pip install onnxopt[plot], or write a .html"
        )


def draw_png(result: BenchmarkResult, path: Path) -> None:
    """Writes a .png with the latencies, and below them the ratios.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = [model.name for model in result.models]
    ratios = [(model.name, model.ratio) for model in result.models if model.ratio is not None]
    count = 2 if ratios else 1
    figure = Figure(figsize=(9, count * (1.4 + 0.4 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    panels[0].boxplot(
        [model.seconds * 1e3 for model in result.models],
        orientation="horizontal",
        tick_labels=names,
        whis=(1, 99),
        showfliers=False,
    )
    panels[0].invert_yaxis()
    # One slow run of a hundred is often ten times as slow.
    panels[0].set_xscale("log")
    # As numbers, also where not a single power of ten is in sight.
    axis = panels[0].xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    panels[0].set_xlabel("milliseconds (box: quartiles, whiskers: p1 to p99)")
    panels[0].set_title(result.inputs)
    for row, (_, ratio) in enumerate(ratios):
        spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        panels[1].errorbar([ratio.median], [row], xerr=spread, fmt="o", capsize=4)
        panels[1].annotate(
            ratio.verdict, (ratio.median, row), xytext=(0, 8), textcoords="offset points",
            ha="center",
        )  # fmt: skip
    if ratios:
        panels[1].axvline(1.0, color="#999", linewidth=1)
        panels[1].set_yticks(range(len(ratios)), [name for name, _ in ratios])
        panels[1].set_ylim(len(ratios) - 0.5, -0.7)
        panels[1].set_xlabel(f"times as fast as {names[0]} (95 % interval)")
    figure.savefig(path, dpi=120)

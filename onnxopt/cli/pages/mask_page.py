"""What masking did, as a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from onnxopt.cli.pages.parts import STYLE, facts, megabytes, model_name, notes, table
from onnxopt.cli.pages.plots import bars, interval
from onnxopt.pruning.mask_report import NO_FASTER
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.pruning.mask_report import MaskReport


def mask_page(report: MaskReport) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
    """
    name = model_name(report.source)
    before, after = report.compressed
    pairs = [
        ("pattern", report.pattern),
        ("zeros in masked weights", f"{report.zeros:.1%}"),
        ("compressed (zlib)", f"{megabytes(before)} to {megabytes(after)}"),
        ("not compressed", megabytes(report.bytes)),
    ]
    if report.error is not None:
        pairs.append(("error of the outputs (root mean square)", f"{report.error.rms:.2%}"))
    parts = [facts(pairs)]
    if report.speed is not None:
        speed = {"low": report.speed.low, "median": report.speed.median, "high": report.speed.high}
        caption = "times as fast as the same model with all its weights"
        parts += ["<h2>Speed</h2>", interval(speed, caption)]
    parts.append(f'<p class="soft">{escape(NO_FASTER)}</p>')
    rows = [(one.node, one.error, f"{one.error:.2%}") for one in report.weights]
    caption = "mean square error of a product, relative"
    parts += ["<h2>Weights in the order of the graph</h2>", bars(rows, caption)]
    cells = [
        (
            one.node,
            " x ".join(map(str, one.shape)),
            one.measure,
            f"{one.zeros:.1%}",
            f"{one.compressed[1] / max(1, one.compressed[0]):.1%}",
        )
        for one in report.weights
    ]
    parts.append(table(("weight of", "shape", "chosen by", "zeros", "compressed"), cells))
    if report.refusals:
        refused = [(one.node, one.reason) for one in report.refusals]
        parts += ["<h2>Left alone</h2>", table(("node", "reason"), refused)]
    return page(f"{name} masked", f"{name}, masked", [*parts, *notes(report.notes)], STYLE)

"""What training did, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.cli.pages.parts import STYLE, facts, model_name, notes
from onnxopt.cli.pages.plots import bars
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.recovering.report import RecoveryReport


def recover_page(report: RecoveryReport) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
    """
    name = model_name(report.source)
    kept = f"epoch {report.chosen}" if report.chosen else "none was better"
    pairs = [
        ("error before", f"{report.before:.3%}"),
        ("error after", f"{report.after:.3%}"),
        ("kept", f"{kept} of {len(report.errors)}"),
        ("parameters", f"{report.parameters:,}"),
        ("trained on", f"{report.samples} input sets"),
        ("measured on", f"{report.held_out} {'others' if report.is_apart else 'of them'}"),
    ]
    rows = [("before", report.before, f"{report.before:.3%}")]
    rows += [(f"epoch {n}", error, f"{error:.3%}") for n, error in enumerate(report.errors, 1)]
    caption = "mean square error of the outputs relative to their variance"
    parts = [facts(pairs), "<h2>Error</h2>", bars(rows, caption), *notes(report.notes)]
    return page(f"{name} trained", f"{name}, trained against the original", parts, STYLE)

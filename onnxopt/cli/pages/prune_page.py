"""What `prune` did, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt.cli.pages.anatomy import Anatomy
from onnxopt.cli.pages.optimize_page import parts_of
from onnxopt.cli.pages.parts import STYLE, model_name
from onnxopt.cli.pages.pruning_parts import PRUNING_STYLE, pruning_parts
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.pruning.report import PruningReport


def prune_page(report: PruningReport, result: Anatomy | None = None) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
        result: The model that was written.
    """
    name = model_name(report.source)
    parts = pruning_parts(report)
    parts += [] if result is None else result.parts()
    if report.preparation is not None:
        parts += ["<h2>Before: optimize</h2>", *parts_of(report.preparation)]
    return page(f"{name} pruned", f"{name}, pruned", parts, STYLE + PRUNING_STYLE)

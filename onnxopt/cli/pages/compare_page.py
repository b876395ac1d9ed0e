"""What `compare` found, as a page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from onnxopt.cli.pages.parts import STYLE, facts, notes, table
from onnxopt.cli.pages.plots import bars
from onnxopt.runtime.page import page
from onnxopt.runtime.parity.comparison_result import agreement, sqnr

if TYPE_CHECKING:
    from onnxopt.runtime.parity.comparison_result import ComparisonResult


def compare_page(result: ComparisonResult, names: tuple[str, str]) -> str:
    """The page as HTML.

    Args:
        result: The comparison.
        names: What to call the two models.
    """
    title = f"{names[1]} against {names[0]}"
    verdict = "at parity" if result.passed else "not at parity"
    parts = [
        facts(
            [
                ("verdict", verdict),
                ("input sets", str(len(result.inputs))),
                ("outputs", str(len(result.outputs))),
            ]
        )
    ]
    parts += [f'<p class="bad">{escape(reason)}</p>' for reason in result.reasons[:5]]
    rows: list[tuple[object, ...]] = []
    errors = []
    for one in result.outputs:
        found = one.parity.difference
        share = agreement(found)
        if found.broken:
            rows.append((one.parity.name, "all", found.broken, "-", "-", "-", "-"))
            continue
        errors.append((one.parity.name, found.relative, f"{found.relative:.1e}"))
        for label, difference in [("all", found), *((s.inputs, s.difference) for s in one.sets)]:
            share = agreement(difference)
            rows.append(
                (
                    one.parity.name,
                    label,
                    f"{difference.largest:.2e}",
                    f"{difference.relative:.2e}",
                    f"{difference.cosine:.6f}",
                    f"{sqnr(difference):.1f}",
                    "-" if share is None else f"{share:.2%}",
                )
            )
    if errors:
        caption = "error relative to the output's scale"
        parts += ["<h2>Error of the outputs</h2>", bars(errors, caption, logarithmic=True)]
    header = ("output", "inputs", "max abs", "max rel", "cosine", "SQNR dB", "agreement")
    parts.append(table(header, rows))
    limits = [
        (one.parity.name, f"{one.parity.tolerance.relative:.1e}", one.parity.complaint or "ok")
        for one in result.outputs
    ]
    parts += ["<h2>Verdict</h2>", table(("output", "tolerance", "verdict"), limits)]
    if result.scores:
        scores = [(s.metric, s.first, s.second, s.difference) for s in result.scores]
        columns = ("metric", names[0], names[1], "difference")
        parts += ["<h2>Against labels</h2>", table(columns, scores)]
    return page(title, title, [*parts, *notes(result.notes)], STYLE)

"""What `optimize` did, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from onnxopt.cli.pages.parts import STYLE, bars, facts, interval, megabytes, notes, strip, table
from onnxopt.core.report import Report
from onnxopt.graph.precision_regions import Region
from onnxopt.runtime.page import page


def optimize_page(report: Report, regions: Sequence[Region] = ()) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
        regions: Where the result computes in which precision.
    """
    name = report.source or "a model in memory"
    return page(f"{name} optimized", f"{name}, optimized", parts_of(report, regions), STYLE)


def parts_of(report: Report, regions: Sequence[Region] = ()) -> list[str]:
    """The parts of the page, for pages of which an optimization is only the beginning."""
    pairs = [
        ("nodes", f"{report.before.nodes:,} to {report.after.nodes:,}"),
        (
            "weights",
            f"{megabytes(report.before.weight_bytes)} to {megabytes(report.after.weight_bytes)}",
        ),
        ("target", report.target or "-"),
        ("parity", (report.parity or {}).get("status", "not checked")),
    ]
    parts = [facts(pairs)]
    if report.parity and report.parity.get("summary"):
        parts.append(f"<p>{escape(report.parity['summary'])}</p>")
    speed = None if report.guard is None else report.guard.speed
    if speed is not None:
        parts += ["<h2>Speed</h2>", interval(speed, "times as fast as the input")]
    if regions:
        parts += ["<h2>Precision along the graph</h2>", strip(regions)]
    parts += _passes(report)
    parts += _parity(report.parity)
    refusals = report.refusals()
    if refusals:
        rows = [
            (pass_ if rule in ("", pass_) else f"{pass_}/{rule}", len(nodes), reason)
            for (pass_, rule, reason), nodes in refusals.items()
        ]
        parts += ["<h2>Left alone</h2>", table(("rule", "nodes", "reason"), rows)]
    if report.guard is not None and report.guard.undone:
        items = "".join(f"<li>{escape(str(entry))}</li>" for entry in report.guard.undone)
        parts += ["<h2>Undone by the guard</h2>", f"<ul>{items}</ul>"]
    phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in report.seconds.items())
    return [*parts, *notes(report.notes), f'<p class="soft">{escape(phases)}</p>']


def _passes(report: Report) -> list[str]:
    done = [record for record in report.merged() if record.modified]
    if not done:
        return ["<h2>Passes</h2>", "<p>Nothing to do: no pass found anything to rewrite.</p>"]
    rows = [
        (
            record.name,
            sum(record.rewrites.values()),
            ", ".join(f"{count} {rule}" for rule, count in record.rewrites.most_common(6)),
            round(record.seconds, 3),
        )
        for record in done
    ]
    chart = bars([(row[0], float(row[1]), f"{row[1]:,}") for row in rows], "rewrites")
    header = ("pass", "rewrites", "rules", "seconds")
    return ["<h2>Passes</h2>", chart, table(header, rows)]


def _parity(parity: dict[str, Any] | None) -> list[str]:
    outputs = [] if parity is None else parity.get("outputs", [])
    if not outputs:
        return []
    rows = [
        (
            one["name"],
            float(one["relative"]),
            float(one["tolerance"]["relative"]),
            float(one["cosine"]),
            one["complaint"] or "ok",
        )
        for one in outputs
    ]
    header = ("output", "relative error", "tolerance", "cosine", "verdict")
    return ["<h2>Parity</h2>", table(header, rows)]

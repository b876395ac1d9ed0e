"""What `optimize` did, as a page."""

from __future__ import annotations

from html import escape
from typing import Any

from onnxopt.cli.pages.anatomy import Anatomy
from onnxopt.cli.pages.parts import STYLE, changes, facts, model_name, notes, table
from onnxopt.cli.pages.plots import bars, interval
from onnxopt.cli.pages.pruning_parts import PRUNING_STYLE, pruning_parts
from onnxopt.core.report import Report
from onnxopt.pruning.report import PruningReport
from onnxopt.runtime.page import page


def optimize_page(report: Report, result: Anatomy | None = None) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
        result: The model that was written.
    """
    name = model_name(report.source)
    parts = parts_of(report, result)
    if isinstance(report.pruning, PruningReport):
        pruned = ["<h2>First: prune</h2>", *pruning_parts(report.pruning)]
        parts = [*pruned, "<h2>Then: optimize</h2>", *parts]
    return page(f"{name} optimized", f"{name}, optimized", parts, STYLE + PRUNING_STYLE)


def parts_of(report: Report, result: Anatomy | None = None) -> list[str]:
    """The parts of the page, for pages of which an optimization is only the beginning."""
    guard = report.guard
    speed = None if guard is None else guard.speed
    pairs = [
        ("target", report.target or "-"),
        ("parity", (report.parity or {}).get("status", "not checked")),
        ("speed", "not timed" if speed is None else f"{speed['median']:.2f}x"),
    ]
    before, after = report.before, report.after
    rows = [
        ("nodes", before.nodes, after.nodes),
        ("bytes of weights", before.weight_bytes, after.weight_bytes),
    ]
    parts = [facts(pairs), "<h2>Before and after</h2>", changes(rows)]
    if report.parity and report.parity.get("summary"):
        parts.append(f"<p>{escape(report.parity['summary'])}</p>")
    if speed is not None:
        parts += ["<h2>Speed</h2>", interval(speed, "times as fast as the input")]
    parts += _passes(report)
    parts += _parity(report.parity)
    parts += [] if result is None else result.parts()
    refusals = report.refusals()
    if refusals:
        left = [
            (pass_ if rule in ("", pass_) else f"{pass_}/{rule}", len(nodes), reason)
            for (pass_, rule, reason), nodes in refusals.items()
        ]
        parts += ["<h2>Left alone</h2>", table(("rule", "nodes", "reason"), left)]
    if guard is not None and guard.undone:
        items = "".join(f"<li>{escape(str(entry))}</li>" for entry in guard.undone)
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
            f"{one['relative']:.2e}",
            f"{one['tolerance']['relative']:.2e}",
            f"{one['cosine']:.7f}",
            one["complaint"] or "ok",
        )
        for one in outputs
    ]
    header = ("output", "relative error", "tolerance", "cosine", "verdict")
    return ["<h2>Parity</h2>", table(header, rows)]

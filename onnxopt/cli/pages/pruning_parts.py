"""What `prune` removed, for a page: costs of units, where each group was cut, errors and speed."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from onnxopt.cli.pages.parts import changes, facts, notes, table
from onnxopt.cli.pages.plots import bars, interval

if TYPE_CHECKING:
    from onnxopt.pruning.report import BlockEntry, GroupEntry, PruningReport
    from onnxopt.runtime.parity.deviation import Deviation

# A bar has at most so many cells; each holds the mean of its units.
_MOST_CELLS = 96
# Costs over so many powers of ten are told apart.
_DECADES = 4.0
_REPAIRS_SHOWN = 40
# What a unit's cost is, by measure.
_COSTS = {
    "activation": "the share of the energy of what reads it",
    "hessian": "the share of the energy of what reads it that no repair brings back",
    "l1": "its share of the sum of magnitudes in its group",
    "l2": "its share of the sum of squares in its group",
    "random": "a random number",
    "taylor": "the squared change of the outputs relative to their variance, to first order",
}
PRUNING_STYLE = """
.groups { display: grid; grid-template-columns: fit-content(45%) 1fr max-content;
  gap: .3rem .6rem; align-items: center; font-size: .9em; }
.groups .name { text-align: right; overflow-wrap: anywhere; }
.groups .n { font-variant-numeric: tabular-nums; white-space: nowrap; }
.units { display: flex; position: relative; height: 1.2rem; outline: 1px solid var(--line); }
.units i { flex: 1; background: var(--c0); }
.units b { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px; background: var(--own); }
"""


def pruning_parts(report: PruningReport) -> list[str]:
    """What was removed, re-fitted and left alone, as parts of a page; they need `PRUNING_STYLE`."""
    before, after, speed = report.before, report.after, report.speed
    pairs = [
        ("asked for", report.goal),
        ("left of it", f"{report.reached:.1%}"),
        ("speed", "not timed" if speed is None else f"{speed.median:.2f}x"),
        ("error as written", _error(report.error)),
        ("error without repair", _error(report.unrepaired)),
    ]
    rows: list[tuple[str, float, float]] = [
        ("parameters", before.parameters, after.parameters),
        ("operations of a run", before.flops, after.flops),
        ("bytes of weights", before.bytes, after.bytes),
    ]
    if report.milliseconds is not None:
        rows.append(("milliseconds of a run", *report.milliseconds))
    parts = [facts(pairs), "<h2>Before and after</h2>", changes(rows)]
    if speed is not None:
        caption = "times as fast as the same model with all its units, cleaned up and fused alike"
        parts += ["<h2>Speed</h2>", interval(speed.to_dict(), caption)]
    parts += _blocks(report)
    parts += [
        "<h2>Groups in the order of the graph</h2>",
        f'<p class="soft">Units in the order in which they go; stronger colours cost more '
        f"(logarithmic; {_cost_meaning(report.groups)}). Right of the mark they stayed.</p>",
        _groups(report.groups),
    ]
    parts += _repairs(report)
    reasons = sorted({f"left alone: {entry.reason}" for entry in report.groups if entry.reason})
    return [*parts, *notes([*reasons, *report.notes])]


def _cost_meaning(groups: list[GroupEntry]) -> str:
    measures = dict.fromkeys(entry.importance for entry in groups if entry.importance)
    return "; ".join(f"by {name}: {_COSTS[name]}" for name in measures) or "none was ranked"


def _error(found: Deviation | None) -> str:
    return "not measured" if found is None else found.broken or f"{found.rms:.2%}"


def _blocks(report: PruningReport) -> list[str]:
    if not report.blocks:
        return []
    rows = [
        (one.name, one.kind, f"{one.parameters:,}", f"{one.cost:.2%}", _state(one))
        for one in report.blocks
    ]
    header = ("first node", "kind", "parameters", "missing without it", "state")
    return ["<h2>Blocks</h2>", table(header, rows)]


def _state(block: BlockEntry) -> str:
    return "removed" if block.removed else block.reason or "kept"


def _repairs(report: PruningReport) -> list[str]:
    fitted = sorted((one for one in report.repairs if not one.reason), key=lambda one: -one.after)
    refused = [(one.node, one.reason) for one in report.repairs if one.reason]
    parts = []
    if fitted:
        rows = [
            (one.node, one.after, f"{one.before:.2%} to {one.after:.2%}")
            for one in fitted[:_REPAIRS_SHOWN]
        ]
        caption = "mean square error of a node's output on held-out samples, before and after"
        parts += ["<h2>Weights that were re-fitted</h2>", bars(rows, caption, logarithmic=True)]
    if refused:
        parts += ["<h2>Not re-fitted</h2>", table(("node", "reason"), refused[:_REPAIRS_SHOWN])]
    return parts


def _groups(groups: list[GroupEntry]) -> str:
    largest = max((cost for entry in groups for cost in entry.costs), default=0.0) or 1.0
    return f'<div class="groups">{"".join(_group(entry, largest) for entry in groups)}</div>'


def _group(entry: GroupEntry, largest: float) -> str:
    cells = "".join(f'<i style="opacity: {o:.2f}"></i>' for o in _opacities(entry.costs, largest))
    cut = (entry.units - entry.kept) / max(1, entry.units)
    return (
        f'<span class="name" title="{escape(entry.kind)}">{escape(entry.name)}</span>'
        f'<span class="units">{cells}<b style="left: {cut:.2%}"></b></span>'
        f'<span class="n">{entry.units} to {entry.kept}</span>'
    )


def _opacities(costs: tuple[float, ...], largest: float) -> list[float]:
    """By the mean cost of a run of units."""
    per_cell = -(-len(costs) // _MOST_CELLS) or 1
    runs = [costs[start : start + per_cell] for start in range(0, len(costs), per_cell)]
    floor = largest * 10**-_DECADES
    return [
        0.08 + 0.92 * max(0.0, 1 + math.log10(max(sum(run) / len(run), floor) / largest) / _DECADES)
        for run in runs
    ]

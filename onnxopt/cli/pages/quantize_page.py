"""What `quantize` found and chose, as a page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnxopt.cli.pages.anatomy import Anatomy
from onnxopt.cli.pages.optimize_page import parts_of
from onnxopt.cli.pages.parts import STYLE, changes, facts, model_name, notes, table
from onnxopt.cli.pages.plots import bars, interval
from onnxopt.runtime.page import page

if TYPE_CHECKING:
    from onnxopt.quantizing.report import Errors, QuantizationReport
    from onnxopt.weight_only.report import WeightReport

_SHOWN = 40


def quantize_page(report: QuantizationReport, result: Anatomy | None = None) -> str:
    """The page as HTML.

    Args:
        report: The record of the run.
        result: The model that was written.
    """
    name = model_name(report.source)
    best = next((one for one in report.candidates if one.verdict == "chosen"), None)
    parts = [
        facts(
            [
                ("form", report.chosen),
                ("speed", "not timed" if report.speed is None else f"{report.speed:.2f}x"),
                (
                    "largest error",
                    "-" if best is None or best.error is None else f"{best.error:.2%}",
                ),
            ]
        ),
        "<h2>Before and after</h2>",
        changes([("bytes of weights", report.bytes_before, report.bytes_after)]),
    ]
    if report.speed is not None and report.interval is not None:
        low, high = report.interval
        ratio = {"median": report.speed, "low": low, "high": high}
        parts += ["<h2>Speed</h2>", interval(ratio, "times as fast as the model that was given")]
    if report.candidates:
        rows = [
            (
                one.name,
                one.nodes,
                "-" if one.error is None else f"{one.error:.2%}",
                "-" if one.cosine is None else f"{one.cosine:.5f}",
                "-" if one.speed is None else f"{one.speed:.2f}x",
                one.verdict,
            )
            for one in report.candidates
        ]
        header = ("form", "nodes", "error", "cosine", "speed", "verdict")
        parts += ["<h2>Forms that were tried</h2>", table(header, rows)]
    parts += _repairs(report)
    parts += _nodes(report)
    parts += [] if result is None else result.parts()
    parts += notes([*map(str, report.allowances), *report.notes])
    if report.preparation is not None:
        parts += ["<h2>Before: optimize</h2>", *parts_of(report.preparation)]
    return page(f"{name} quantized", f"{name}, quantized", parts, STYLE)


def _repairs(report: QuantizationReport) -> list[str]:
    if not report.repairs:
        return []
    rows = [(one.form, one.repair, _errors(one.before), _errors(one.after), one.verdict)
            for one in report.repairs]  # fmt: skip
    header = ("form", "repair", "largest error before", "after", "verdict")
    return ["<h2>Repairs of accuracy</h2>", table(header, rows)]


def _errors(errors: Errors | None) -> str:
    return "-" if errors is None else f"{errors.error:.2%}"


def _nodes(report: QuantizationReport) -> list[str]:
    if not report.nodes:
        return []
    counts = Counter((entry.op_type, entry.state) for entry in report.nodes)
    rows = [(op_type, count, state) for (op_type, state), count in counts.most_common()]
    parts = ["<h2>Nodes</h2>", table(("operator", "nodes", "state"), rows)]
    measured = [entry for entry in report.nodes if entry.share]
    measured.sort(key=lambda entry: -(entry.share or 0.0))
    if measured:
        chart = [(e.name, e.share or 0.0, f"{e.share:.2%}") for e in measured[:_SHOWN]]
        caption = "share of the budget of error if this node alone is quantized"
        parts += ["<h2>Most sensitive nodes</h2>", bars(chart, caption, logarithmic=True)]
    return parts


def weights_page(report: WeightReport, result: Anatomy | None = None) -> str:
    """The page of weight-only quantization as HTML."""
    name = model_name(report.source)
    parts = [
        facts(
            [
                ("quantized", f"{len(report.weights)} weights"),
                ("left alone", f"{len(report.refusals)}"),
            ]
        ),
        "<h2>Before and after</h2>",
        changes([("bytes of weights", report.bytes_before, report.bytes_after)]),
    ]
    ranked = sorted(report.weights, key=lambda one: -(one.relative_error or 0.0))[:_SHOWN]
    errors = [(w.name, w.relative_error or 0.0, f"{w.relative_error or 0:.2%}") for w in ranked]
    if errors:
        parts += ["<h2>Error of the weights</h2>", bars(errors, "relative error")]
    parts += [] if result is None else result.parts()
    largest = sorted(report.weights, key=lambda one: -one.bytes_before)[:_SHOWN]
    rows = [
        (w.name, w.bits, w.block_size, w.algorithm, w.bytes_before, w.bytes_after) for w in largest
    ]
    if rows:
        header = ("weight", "bits", "block", "algorithm", "bytes before", "bytes after")
        parts += ["<h2>How they are stored</h2>", table(header, rows)]
    if report.refusals:
        left = Counter(refusal.reason for refusal in report.refusals)
        reasons = [(count, reason) for reason, count in left.items()]
        parts += ["<h2>Left alone</h2>", table(("weights", "reason"), reasons)]
    heading = f"{name}, weights quantized"
    return page(f"{name} quantized", heading, [*parts, *notes(report.notes)], STYLE)

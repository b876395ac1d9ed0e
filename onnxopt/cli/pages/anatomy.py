"""The model that was written, on a page: its precision along the graph, and its largest weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

from onnxopt.cli.pages.parts import megabytes, table
from onnxopt.cli.pages.plots import bars
from onnxopt.graph.inference import infer_model
from onnxopt.graph.loading import load_model
from onnxopt.graph.precision_regions import Region, precision_regions
from onnxopt.graph.tensors import all_tensors

_WEIGHTS_SHOWN = 20
# Of the largest one; a smaller bar is not to be seen.
_SMALLEST_SHARE = 0.005
_REGIONS_SHOWN = 200
_OPERATORS_SHOWN = 4
# The colour of a precision: the more it saves, the stronger.
_COLORS = {
    "float32": "var(--c0)",
    "float64": "var(--c5)",
    "float16": "var(--c2)",
    "bfloat16": "var(--c2)",
    "int8": "var(--c1)",
    "int8 weights": "var(--c1)",
    "int4 weights": "var(--c3)",
    "integers": "var(--line)",
}


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What a page shows of a model.

    Attributes:
        regions: Where it computes in which precision.
        weights: Name and bytes of its largest tensors, the largest first.
    """

    regions: tuple[Region, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()

    def parts(self) -> list[str]:
        """The parts of the page; none of a model that was not written."""
        parts = []
        if self.regions:
            parts += ["<h2>Precision along the graph</h2>", _strip(self.regions)]
            parts += [_details(self.regions)] if len(self.regions) > 1 else []
        if self.weights:
            visible = self.weights[0][1] * _SMALLEST_SHARE
            rows = [(n, float(size), megabytes(size)) for n, size in self.weights if size > visible]
            parts += ["<h2>Largest weights</h2>", bars(rows, "size in the file that was written")]
        return parts


def read_anatomy(path: str) -> Anatomy:
    """The anatomy of a file; nothing if there is none."""
    if not path:
        return Anatomy()
    model = load_model(path)
    infer_model(model)  # files need not say of what type their values are
    sizes = {tensor.name or "a constant": tensor.nbytes for tensor in all_tensors(model)}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_WEIGHTS_SHOWN]
    return Anatomy(tuple(precision_regions(model.graph)), tuple(largest))


def _strip(regions: Sequence[Region]) -> str:
    """The graph from its first node to its last, coloured by precision, with a key."""
    total = sum(region.nodes for region in regions) or 1
    spans = "".join(
        f'<span title="{escape(region.precision)}: {escape(region.first[:100])} to '
        f'{escape(region.last[:100])}" style="width: {region.nodes / total:.3%}; '
        f'background: {_color(region.precision)}"></span>'
        for region in regions
    )
    counts: dict[str, int] = {}
    for region in regions:
        counts[region.precision] = counts.get(region.precision, 0) + region.nodes
    key = "".join(
        f'<span><i style="background: {_color(name)}"></i>{escape(name)}: {count} nodes</span>'
        for name, count in counts.items()
    )
    return f'<div class="strip">{spans}</div><p class="key soft">{key}</p>'


def _details(regions: Sequence[Region]) -> str:
    rows = [
        (region.precision, region.nodes, region.first, region.last, _operators(region))
        for region in regions[:_REGIONS_SHOWN]
    ]
    more = len(regions) - len(rows)
    header = ("precision", "nodes", "from", "to", "operators")
    return (
        f"<details><summary>{len(regions)} regions</summary>{table(header, rows)}"
        + (f"<p>and {more} more</p>" if more else "")
        + "</details>"
    )


def _operators(region: Region) -> str:
    ranked = sorted(region.operators.items(), key=lambda item: -item[1])
    words = [f"{count} {op_type}" for op_type, count in ranked[:_OPERATORS_SHOWN]]
    more = len(ranked) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")


def _color(precision: str) -> str:
    return _COLORS.get(precision, "var(--c4)")

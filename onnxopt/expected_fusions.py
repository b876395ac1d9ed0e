"""What fusions look like before they happen, and where a graph almost has them.

Exporters change how they spell a normalization or an activation, and a fusion silently stops. The
patterns here are the usual spellings; a part of the graph that has most of one is a near miss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.partial_matching import Anything, Match, Number, Op, match_at, op

_X, _NUMBER = Anything("x"), Number()
_MEANS = "ReduceMean|GlobalAveragePool"
_MEAN = op(_MEANS, _X)
_CENTERED = op("Sub", _X, _MEAN)
_VARIANCE = op(_MEANS, op("Pow|Mul", _CENTERED))
_MEAN_SQUARE = op(_MEANS, op("Pow|Mul", _X))


def _root(mean: Op) -> Op:
    return op("Sqrt", op("Add", mean, _NUMBER))


def _inverse(mean: Op) -> tuple[Op, ...]:
    return op("Reciprocal", _root(mean)), op("Div", Number(1), _root(mean))


def _scaled_first(factor: Op) -> Op:
    """As TensorFlow writes a normalization: x * r + (b - mean(x) * r)."""
    return op("Add", op("Mul", _X, factor), op("Sub", Anything("bias"), op("Mul", _MEAN, factor)))


@dataclasses.dataclass(frozen=True)
class Expected:
    """One spelling of what a pass fuses.

    Attributes:
        pass_name: The pass.
        pattern: The nodes.
        least: Nodes that have to fit for a near miss.
    """

    pass_name: str
    pattern: Op
    least: int


EXPECTED: tuple[Expected, ...] = (
    Expected("fuse-layer-norm", op("Div", _CENTERED, _root(_VARIANCE)), 5),
    *(
        Expected("fuse-layer-norm", op("Mul", _CENTERED, inverse), 6)
        for inverse in _inverse(_VARIANCE)
    ),
    *(
        Expected("fuse-layer-norm", _scaled_first(factor), 8)
        for inverse in _inverse(_VARIANCE)
        for factor in (inverse, op("Mul", inverse, Anything("scale")))
    ),
    Expected("fuse-rms-norm", op("Div", _X, _root(_MEAN_SQUARE)), 4),
    *(Expected("fuse-rms-norm", op("Mul", _X, inverse), 4) for inverse in _inverse(_MEAN_SQUARE)),
    *(
        Expected("fuse-gelu", pattern, 4)
        for gate in (op("Add", op("Erf", op("Div|Mul", _X, _NUMBER)), Number(1)),)
        for pattern in (
            op("Mul", op("Mul", _X, gate), Number(0.5)),
            op("Mul", op("Mul", _X, Number(0.5)), gate),
            op("Mul", _X, op("Mul", gate, Number(0.5))),
        )
    ),
    Expected(
        "fuse-gelu",
        op(
            "Mul",
            op("Mul", _X, Number(0.5)),
            op(
                "Add",
                op("Tanh", op("Mul", op("Add", _X, op("Mul", op("Pow", _X), _NUMBER)), _NUMBER)),
                Number(1),
            ),
        ),
        6,
    ),
    Expected(
        "fuse-hard-activations",
        op("Mul", _X, op("Div|Mul", op("Clip", op("Add", _X, Number(3))), _NUMBER)),
        3,
    ),
    Expected("fuse-conv-batch-norm", op("BatchNormalization", op("Conv|ConvTranspose", _X)), 1),
    Expected("fuse-pads", op("Conv|MaxPool|AveragePool", op("Pad", _X)), 2),
)


@dataclasses.dataclass(frozen=True)
class NearMiss:
    """A part of the graph that a pass was to be expected to fuse.

    Attributes:
        pass_name: The pass.
        node: Name of the last node of that part.
        matched: Nodes that fit.
        size: Nodes of the pattern.
        place: Name of the node at which the rest fails.
        reason: Why it fails.
    """

    pass_name: str
    node: str
    matched: int
    size: int
    place: str
    reason: str


def near_misses(model: ir.Model) -> list[NearMiss]:
    """Parts of an optimized model that a fusion left over because something is unlike.

    Parts that fit a pattern completely are none: their pass knows them and says why not, if so.
    """
    best: dict[ir.Node, tuple[Expected, Match]] = {}
    for graph in all_graphs(model):
        for node in graph:
            for expected in EXPECTED:
                if node.op_type in expected.pattern.types.split("|") and not node.domain:
                    match = match_at(expected.pattern, node)
                    if len(match.nodes) >= expected.least:
                        _keep(best, node, expected, match)
    return [
        NearMiss(
            expected.pass_name,
            node.name or node.op_type,
            len(match.nodes),
            expected.pattern.size(),
            match.place,
            match.failure,
        )
        for node, (expected, match) in _outermost(best)
        if match.failure
    ]


def _keep(
    best: dict[ir.Node, tuple[Expected, Match]], node: ir.Node, expected: Expected, match: Match
) -> None:
    known = best.get(node)
    if known is None or _share(expected, match) > _share(*known):
        best[node] = (expected, match)


def _share(expected: Expected, match: Match) -> tuple[bool, float]:
    return not match.failure, len(match.nodes) / expected.pattern.size()


def _outermost(
    best: dict[ir.Node, tuple[Expected, Match]],
) -> Sequence[tuple[ir.Node, tuple[Expected, Match]]]:
    """Each node in one near miss only: the one that explains most of it."""
    taken: set[ir.Node] = set()
    kept = []
    for node, (expected, match) in sorted(
        best.items(), key=lambda item: _share(*item[1]), reverse=True
    ):
        if not taken & set(match.nodes):
            taken.update(match.nodes)
            kept.append((node, (expected, match)))
    return kept

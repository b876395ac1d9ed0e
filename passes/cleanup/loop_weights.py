"""Weights that only the body of a loop reads, stored around it.

    w in the main graph, Scan { MatMul(x, w) }   -> Scan { w, MatMul(x, w) }

ONNX Runtime plans the memory of a body once and reuses the plan in every iteration, but not if the
body captures a constant that it packs for a kernel: MatMul and Gemm pack theirs. Every iteration
then allocates anew. A small LSTM in a Scan ran 0.92 times as fast as with weights that cannot be
packed, and 1.09 times once they were in the body (benchmarks/loop_weights.py, docs/benchmarks.md).

An initializer moves to the innermost body of Loop or Scan that all of its users are in.

Refused: an initializer that is also a graph input, whose value the caller may replace, or a graph
output. One that several bodies read stays where it is, since each would need a copy. Bodies of If
run once a call and are left alone. Functions hold no initializers.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import Enclosing, enclosing_graphs

_RULE = "loop-weight"
_LOOPS = ("Loop", "Scan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkInitializers(Pass):
    """Moves weights that only the body of a loop reads into that body."""

    name: ClassVar[str] = "sink-initializers"

    def call(self, model: ir.Model) -> PassResult:
        """Looks at the initializers of the main graph and of its subgraphs."""
        enclosing = dict(enclosing_graphs(model.graph))
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        if len(enclosing) == 1:
            return PassResult(model)
        for graph in enclosing:
            for value in list(graph.initializers.values()):
                body = _body(value, enclosing)
                if body is None:
                    continue
                if value.is_graph_input() or value.is_graph_output():
                    refusals.append(Refusal(_RULE, value.name or "", _reason(value)))
                    continue
                graph.initializers.pop(value.name or "")
                body.register_initializer(value)
                rewrites[_RULE] += 1
        return PassResult(model, rewrites, refusals)


def _reason(value: ir.Value) -> str:
    if value.is_graph_input():
        return "only a loop reads it, but it is a graph input that the caller may replace"
    return "only a loop reads it, but it is a graph output"


def _body(value: ir.Value, enclosing: Mapping[ir.Graph, Enclosing | None]) -> ir.Graph | None:
    """The innermost loop body below the value's graph that has all of its users; or None."""
    common: list[ir.Graph] | None = None
    for node in value.consumers():
        bodies = _loops_around(node.graph, value.graph, enclosing)
        common = bodies if common is None else [body for body in common if body in bodies]
        if not common:
            return None
    return common[0] if common else None


def _loops_around(
    graph: ir.Graph | ir.Function | None,
    until: ir.Graph | None,
    enclosing: Mapping[ir.Graph, Enclosing | None],
) -> list[ir.Graph]:
    """The loop bodies from `graph` outwards that are inside `until`, innermost first."""
    found: list[ir.Graph] = []
    while isinstance(graph, ir.Graph) and graph is not until:
        around = enclosing[graph]
        if around is None:
            break
        if around.node.op_type in _LOOPS and not around.node.domain:
            found.append(graph)
        graph = around.graph
    return found

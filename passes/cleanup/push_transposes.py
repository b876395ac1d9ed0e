"""Transposes move through the operators between them and cancel.

    Transpose(Relu(Transpose(x, p)), p^-1)       -> Relu(x)
    Transpose(Add(Transpose(x, p), c), p^-1)     -> Add(x, Transpose(c, p^-1))
    Transpose(Concat(Transpose(x, p), Transpose(y, p), axis=a), p^-1) -> Concat(x, y, axis=p[a])
    ReduceMean(Transpose(x, p), axes=A, keepdims=0)                   -> ReduceMean(x, axes=p[A])

A converter from channels-last frameworks leaves islands: operators between Transposes that could
as well work on the other layout. For every permutation p of the graph, each operator that can work
on either layout (see `layouts.flip`) gets one of them. A value that is made in one layout and
read in the other costs a Transpose; one that was transposed by p is free in both directions. The
assignment with the fewest Transposes is the minimum cut of a network with an edge for each such
cost, so that the number of Transposes never grows and a region is only touched if it falls.

Refused: nothing is reported, since a Transpose that stays is the rule. Constants are transposed at
once. Values that subgraphs read keep their layout; subgraphs are rewritten like the main graph.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult
from onnxopt.core.walking import all_graphs
from onnxopt.passes.cleanup.layout_regions import Region, transposes
from onnxopt.passes.cleanup.layout_rewriting import Rewriter
from onnxopt.passes.cleanup.layouts import Perm, inverse


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushTransposes(Pass):
    """Moves Transposes through the operators between them where that makes them fewer."""

    name: ClassVar[str] = "push-transposes"

    def call(self, model: ir.Model) -> PassResult:
        """Goes over the permutations of each graph until none saves a Transpose."""
        rewrites: Counter[str] = Counter()
        names: Names | None = None
        for graph in list(all_graphs(model)):
            pending = _directions(graph)
            while pending:
                region = Region(model, graph, *pending.pop())
                if not region.solve():
                    continue
                count = len(list(transposes(graph)))
                names = names or Names(model)
                Rewriter(region, names, self.name).run()
                saved = count - len(list(transposes(graph)))
                rewrites["transpose"] += saved
                # What was done for one permutation can open the way for the others.
                pending = _directions(graph) if saved > 0 else pending
        return PassResult(model, rewrites)


def _directions(graph: ir.Graph) -> list[tuple[Perm, bool]]:
    """Each permutation; those that undo themselves once for each of the two layouts."""
    perms = dict.fromkeys(perm for _, perm in transposes(graph))
    return [
        (perm, side) for perm in perms for side in (False, True) if side or perm == inverse(perm)
    ]

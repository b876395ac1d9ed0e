"""Which rewrites to try first when a group of passes is wrong: those of the nodes that are.

A diagnosis of the result against the state before names the nodes that compute something else, and
these carry the rule that made them and the nodes that they replace. Whether leaving such a rewrite
out helps is tried like anything else; a suspicion costs a run of each model, a bisection dozens.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.errors import OnnxOptError
from onnxopt.core.gate import Place
from onnxopt.core.provenance import sources_of
from onnxopt.core.walking import all_graphs
from onnxopt.runtime.diagnosis.dissecting import Dissection
from onnxopt.runtime.diagnosis.finding import Finding
from onnxopt.runtime.session import Feeds

_MEMORY = 256 << 20
_MOST_FINDINGS = 5


def suspects(
    before: ir.Model, after: ir.Model, feeds: Feeds, taken: Sequence[Place]
) -> list[Place]:
    """Rewrites that may be wrong; empty if there is no clue.

    Args:
        before: The model before the passes.
        after: The model that differs.
        feeds: Inputs on which it differs.
        taken: All rewrites.
    """
    try:
        findings = Dissection(before, after, feeds, _MEMORY, everything=False).faults()
    except OnnxOptError:  # it does not even run: the bisection finds out
        return []
    nodes = {node.name or "": node for graph in all_graphs(after) for node in graph}
    found: dict[Place, None] = {}
    for finding in findings[:_MOST_FINDINGS]:
        names = _names(finding, nodes)
        found.update(
            {
                place: None
                for place in taken
                if place.rule in finding.rules and place.node and place.node in names
            }
        )
    return list(found)


def _names(finding: Finding, nodes: dict[str, ir.Node]) -> set[str]:
    """What the nodes of a finding are called, and what those are called that they replace."""
    names = {*finding.nodes, finding.point.value}
    for name in finding.nodes:
        if name in nodes:
            names.update(sources_of(nodes[name]))
    # A new node is named after the one at the root of the rewrite, with a number if need be.
    return names | {name.rpartition("_")[0] for name in finding.nodes}

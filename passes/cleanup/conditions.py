"""Control flow that is decided before the model runs.

    y = If(true) {then: z = Op(x)} {else: ...}    -> z = Op(x), y is z
    y = If(c) {then: Identity(x)} {else: same}    -> Identity(x)
    y = Loop(0, c, x) {...}, Loop(n, false, x)    -> x        without scan outputs in use

The nodes and initializers of the branch move in front of the If, and values that they capture stay
what they are. A name that another graph of the model uses as well is replaced, because subgraphs
may repeat each other's names but not those of the graphs around them. The If's outputs hand their
type and shape to branch outputs that lack them; an initializer of a branch that becomes a graph
output goes through an Identity. Nested Ifs are decided from the outside in, so that a dead branch
is never looked at.

Refused, each with its reason: a condition that is an initializer and also a graph input; a Loop
that never runs but whose (empty) scan outputs are used. Subgraphs are rewritten too; functions are
left alone (`inline-functions` runs first).
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import remove_dead, remove_node
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_graphs, graph_tree, subgraphs_of
from onnxopt.graph.values import constant


@dataclasses.dataclass(frozen=True, kw_only=True)
class InlineConstantIf(Pass):
    """Replaces an If with a known condition by its branch, and removes Loops that never run."""

    name: ClassVar[str] = "inline-constant-if"

    def call(self, model: ir.Model) -> PassResult:
        """Visits every node once, nodes that move into an outer graph included."""
        return _Inliner(model).run()


class _Inliner:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = Names(model)
        self._uses_of_name = Counter(
            value.name for graph in all_graphs(model) for value in _values_of(graph)
        )
        self._rewrites: Counter[str] = Counter()
        self._refusals: list[Refusal] = []

    def run(self) -> PassResult:
        work = deque(self._model.graph)
        while work:
            node = work.popleft()
            if not node.domain and node.op_type == "If":
                work.extendleft(reversed(self._visit_if(node)))
            elif not node.domain and node.op_type == "Loop":
                self._visit_loop(node)
            if node.graph is not None:
                for graph in subgraphs_of(node):
                    work.extend(graph)
        return PassResult(self._model, self._rewrites, self._refusals)

    def _refuse(self, rule: str, node: ir.Node, reason: str) -> None:
        self._refusals.append(Refusal(rule, node.name or node.op_type, reason))

    def _visit_if(self, node: ir.Node) -> list[ir.Node]:
        """Returns the nodes that moved into the graph of the If."""
        branches = {name: node.attributes[name].as_graph() for name in _BRANCHES}
        condition = node.inputs[0]
        known = constant(condition)
        if known is not None and known.size == 1:
            self._rewrites["constant-if"] += 1
            names = _BRANCHES if known.reshape(-1)[0] else reversed(_BRANCHES)
            taken, dead = (branches[name] for name in names)
            return self._inline(node, taken, dead)
        then, other = branches.values()
        passed = _passed_through(then)
        if passed and passed == _passed_through(other):
            self._rewrites["same-branches"] += 1
            return self._inline(node, then, other)
        if condition is not None and condition.is_initializer():
            self._refuse(
                "constant-if",
                node,
                "the condition is also a graph input (remove-initializers-from-inputs fixes it)",
            )
        return []

    def _inline(self, node: ir.Node, branch: ir.Graph, other: ir.Graph) -> list[ir.Node]:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for dead in graph_tree(other):
            self._uses_of_name.subtract(value.name for value in _values_of(dead))
        outputs = list(branch.outputs)
        branch.outputs.clear()
        for value in _values_of(branch):
            if value.name and self._uses_of_name[value.name] > 1:
                self._uses_of_name[value.name] -= 1
                value.name = self._names.unique(value.name)
        initializers = list(branch.initializers.values())
        branch.initializers.clear()
        for initializer in initializers:
            graph.register_initializer(initializer)
        nodes = list(branch)
        branch.remove(nodes)
        graph.insert_before(node, nodes)
        for old, new in zip(node.outputs, outputs, strict=True):
            self._replace(graph, node, old, new)
        remove_node(node)
        return nodes

    def _replace(self, graph: ir.Graph, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
        new.type = new.type or old.type
        if new.shape is None:
            new.shape = old.shape
        replace_value(graph, node, old, new, self._names)

    def _visit_loop(self, node: ir.Node) -> None:
        trips = constant(node.inputs[0])
        condition = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        never = (trips is not None and not trips.max() > 0) or (
            condition is not None and not condition.any()
        )
        if not never:
            return
        carried = node.inputs[2:]
        if any(v.uses() or v.is_graph_output() for v in node.outputs[len(carried) :]):
            self._refuse("zero-trip-loop", node, "its empty scan outputs are used")
            return
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for old, new in zip(node.outputs, carried, strict=False):
            assert new is not None
            self._replace(graph, node, old, new)
        remove_dead([node])
        self._rewrites["zero-trip-loop"] += 1


_BRANCHES = ("then_branch", "else_branch")


def _passed_through(branch: ir.Graph) -> list[ir.Value | None]:
    """The outer values that a branch returns unchanged, through Identity nodes; else nothing."""
    outer = []
    for value in branch.outputs:
        node = value.producer()
        if node is None or node.domain or node.op_type != "Identity":
            return []
        outer.append(node.inputs[0])
    inside = any(value is None or value.graph is branch for value in outer)
    return [] if inside else outer


def _values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs

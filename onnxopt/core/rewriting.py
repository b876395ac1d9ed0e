"""The worklist driver for rewrite rules: cost linear in nodes plus rewrites.

Rules are indexed by the (domain, op type) of their pattern's output node. Every node is looked at
once; after a rewrite only the new nodes, their users and the producers that lost a user are looked
at again. Several passes can share one run, so that a group of passes reaches its fixpoint without
walking the graph once for each of them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx_ir as ir
from onnxscript.rewriter._rewrite_rule import ReplacementSubgraph
from onnxscript.rewriter.pattern import MatchingTracer, MatchResult, MatchStatus, RewriteRule

from onnxopt.core.gate import Gate, Place, node_label
from onnxopt.core.names import Names
from onnxopt.core.passes import PassResult, Refusal, RewritePass
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rule_index import RuleIndex
from onnxopt.core.walking import all_graphs, subgraphs_of

# A rule set that rewrites more often than this for each node it started with does not terminate.
_REWRITES_PER_NODE = 20
_REWRITES_AT_LEAST = 1_000


class RewriteResult(PassResult):
    """A pass result with the seconds that its rules took in a shared run."""

    seconds: float = 0.0


def run_rules(
    model: ir.Model, passes: Sequence[RewritePass], gate: Gate | None = None
) -> list[RewriteResult]:
    """Applies the rules of all `passes` in one worklist run until none applies.

    Args:
        model: Rewritten in place, subgraphs included.
        passes: Their rules are tried on a node in this order.
        gate: Keeps rules from places, and notes what was rewritten.

    Returns:
        One result per pass, in order.
    """
    return _Driver(model, passes, gate).run()


class _ReasonTracer(MatchingTracer):
    """Keeps the reason of the last match that a rule's check or rewrite refused.

    A check that fails without a reason is an ordinary non-match and is not reported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""

    def log(
        self,
        rule: RewriteRule,
        container: ir.Graph | ir.Function,
        node: ir.Node,
        match_result: MatchResult,
        status: MatchStatus,
    ) -> None:
        if status in (MatchStatus.CONDITION_FAILED, MatchStatus.REPLACEMENT_FAILED):
            self.reason = match_result.reason


class _Driver:
    def __init__(self, model: ir.Model, passes: Sequence[RewritePass], gate: Gate | None) -> None:
        self._model = model
        self._gate = gate or Gate()
        self._owners = [str(pass_) for pass_ in passes]
        self._index = RuleIndex()
        self._rewrites: list[Counter[str]] = [Counter() for _ in passes]
        self._seconds = [0.0] * len(passes)
        self._refusals: list[dict[tuple[str, ir.Node], str]] = [{} for _ in passes]
        for owner, pass_ in enumerate(passes):
            self._gate.attempting = (self._owners[owner], "", "")
            for rule in pass_.rules():
                self._index.add(owner, rule)
        self._names = Names(model)
        self._work: deque[ir.Node] = deque()
        self._queued: set[ir.Node] = set()

    def run(self) -> list[RewriteResult]:
        count = 0
        for graph in all_graphs(self._model):
            for node in graph:
                count += 1
                self._push(node)
        budget = _REWRITES_PER_NODE * count + _REWRITES_AT_LEAST
        with _overridable_initializers_hidden(self._model):
            while self._work:
                node = self._work.popleft()
                self._queued.discard(node)
                if node.graph is not None and self._rewrite_node(node):
                    budget -= 1
                    if budget == 0:
                        return self._results("stopped: the rules undo each other's work")
        return self._results()

    def _push(self, node: ir.Node) -> None:
        if node not in self._queued and self._index.has_rules_for(node):
            self._queued.add(node)
            self._work.append(node)

    def _rewrite_node(self, node: ir.Node) -> bool:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        label = node_label(node)
        for owner, rule in self._index.candidates(node):
            start = time.perf_counter()
            name = rule.name or type(rule).__name__
            if not self._gate.permits(self._owners[owner], name, label):
                continue
            self._gate.attempting = (self._owners[owner], name, label)
            tracer = _ReasonTracer()
            delta = rule.try_rewrite(self._model, graph, node, tracer=tracer)
            reason = tracer.reason
            done = False
            if delta is not None:
                reason = _unreplaceable(node, delta.match.outputs, delta.new_outputs)
                if not reason:
                    self._apply(graph, node, delta, name)
                    done = True
            self._seconds[owner] += time.perf_counter() - start
            if done:
                self._rewrites[owner][name] += 1
                self._gate.taken.append(Place(self._owners[owner], name, label))
                return True
            if reason:
                self._refusals[owner][name, node] = reason
        return False

    def _apply(self, graph: ir.Graph, root: ir.Node, delta: ReplacementSubgraph, rule: str) -> None:
        """Puts the replacement in place of the root and drops what is dead because of it."""
        new_nodes: list[ir.Node] = list(delta.new_nodes)
        for initializer in delta.new_initializers:
            initializer.name = self._names.unique(initializer.name or f"{root.name}_const")
            graph.register_initializer(initializer)
        label = root.name or root.op_type
        for new_node in new_nodes:
            if not new_node.name:
                new_node.name = self._names.unique_node(label)
        base_name = root.outputs[0].name or label
        old_outputs = list(delta.match.outputs)
        for old, new in zip(old_outputs, delta.new_outputs, strict=True):
            new.type = new.type or old.type
            if new.shape is None:
                new.shape = old.shape
            if not new.name and not old.is_graph_output() and new.producer() in new_nodes:
                # It stands for the old value, so it bears its name, in the saved file as well.
                old.name, new.name = self._names.unique(f"{old.name}_old"), old.name
        for new_node in new_nodes:
            for index, value in enumerate(new_node.outputs):
                if not value.name:
                    base = f"{base_name}_{new_node.op_type}"
                    value.name = self._names.unique(base + (f"_{index}" if index else ""))
        graph.insert_before(root, new_nodes)
        # Only those that read the replaced value see something new: a value that half the graph
        # reads must not send half the graph through the rules again at every rewrite.
        affected = [user for old in old_outputs for user in old.consumers()]
        for old, new in zip(old_outputs, delta.new_outputs, strict=True):
            replace_value(graph, root, old, new, self._names)
        removed, survivors = remove_dead([root, *delta.match.nodes])
        record_rewrite(new_nodes, rule, removed)
        for new_node in new_nodes:
            self._push(new_node)
            for subgraph in subgraphs_of(new_node):
                for inner in subgraph:
                    self._push(inner)
        for new in delta.new_outputs:
            producer = new.producer()
            if producer is not None:
                self._push(producer)
        for user in affected:
            if user.graph is not None:
                self._push(user)
        for survivor in survivors:
            self._push(survivor)
            for value in survivor.outputs:
                # What many rules ask: a value with a single user left.
                if len(value.uses()) == 1:
                    self._push(value.consumers()[0])

    def _results(self, stopped: str = "") -> list[RewriteResult]:
        results = []
        for rewrites, refusals, seconds in zip(
            self._rewrites, self._refusals, self._seconds, strict=True
        ):
            # A node that was rewritten later, by this rule or by another, is no refusal.
            kept = [
                Refusal(rule, node.name or node.op_type, reason)
                for (rule, node), reason in refusals.items()
                if node.graph is not None
            ]
            if stopped and rewrites:
                kept.append(Refusal(rewrites.most_common(1)[0][0], "", stopped))
            result = RewriteResult(self._model, rewrites, kept)
            result.seconds = seconds
            results.append(result)
        return results


def _renameable(new: ir.Value, graph: ir.Graph) -> bool:
    """True if the value can take over the name of a graph output."""
    producer = new.producer()
    return (
        producer is not None
        and producer.graph in (None, graph)
        and not new.is_graph_output()
        and not new.is_graph_input()
    )


def _unreplaceable(
    root: ir.Node, old_outputs: Sequence[ir.Value], new_outputs: Sequence[ir.Value]
) -> str:
    """Why the matched outputs cannot be replaced, or ""."""
    if any(value.producer() is not root for value in old_outputs):
        raise TypeError(f"a rule at {root.op_type} returns values that its root does not produce")
    if not any(value.uses() or value.is_graph_output() for value in old_outputs):
        return "its result is unused"
    if root.op_type != "Identity" or root.domain or not old_outputs[0].is_graph_output():
        return ""
    graph = root.graph
    assert isinstance(graph, ir.Graph)
    if _renameable(new_outputs[0], graph):
        return ""
    return "it connects a graph input, an initializer or another output directly to a graph output"


def replace_value(
    graph: ir.Graph, before: ir.Node, old: ir.Value, new: ir.Value, names: Names
) -> None:
    """Makes every user of `old` use `new`; a graph output keeps its name, type and shape.

    Where `new` cannot take the name (it is a graph input, an initializer, another output or
    belongs to an outer graph), an Identity node, inserted before `before`, carries it.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    if not _renameable(new, graph):
        identity = ir.node("Identity", [new], name=names.unique_node(old.name or "Identity"))
        graph.insert_before(before, identity)
        new = identity.outputs[0]
        old.name, name = names.unique((old.name or "") + "_old"), old.name
        new.name = name
        # Only the output goes through the Identity; the other users read the value itself.
        new.type, new.shape = old.type, old.shape
        source = identity.inputs[0]
        assert source is not None
        for user, index in list(old.uses()):
            user.replace_input_with(index, source)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        return
    old.name, name = names.unique((old.name or "") + "_old"), old.name
    new.name = name
    new.type, new.shape = old.type or new.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


@contextmanager
def _overridable_initializers_hidden(model: ir.Model) -> Iterator[None]:
    """Initializers that are also graph inputs can be fed by the user: they are not constants."""
    hidden = [
        (value, value.const_value)
        for value in model.graph.inputs
        if value.is_initializer() and value.const_value is not None
    ]
    for value, _ in hidden:
        value.const_value = None
    constants = [
        node
        for graph in all_graphs(model)
        for node in graph
        if node.op_type == "Constant" and not node.domain
    ]
    for node in constants:
        if node.outputs[0].const_value is None:
            ir.convenience.get_const_tensor(node.outputs[0], propagate_shape_type=True)
    try:
        yield
    finally:
        for value, tensor in hidden:
            value.const_value = tensor

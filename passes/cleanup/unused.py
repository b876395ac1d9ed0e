"""Everything that no graph output depends on.

    node whose outputs nobody uses                        -> removed, and so on upwards
    y, unused = If(c) {...}, y, unused = Loop(...) {...}   -> y = If(c) {...}, also in the bodies
    y, mask = MaxPool(x), y, h, c = LSTM(x)                -> y = MaxPool(x), y = LSTM(x)
    initializer, function or opset import without a user   -> removed

A value that a subgraph captures is used. Graph inputs and outputs are never touched, and an
initializer that is also a graph input stays: without it the user would have to feed the input.
Removal follows ONNX semantics, in which nodes have no side effects; the only nodes kept without a
user are those that have no outputs at all. State that a Loop or Scan carries from one iteration to
the next is kept, since the next iteration may read it.

Left alone: the outputs of a BatchNormalization, whose number selects training mode before opset 14,
and those of a Scan. Subgraphs and functions are swept like the main graph.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.passes import Pass, PassResult
from onnxopt.core.removal import is_dead, remove_dead
from onnxopt.core.walking import all_nodes, graph_tree, subgraphs_of

# Outputs that may be left out by (domain, op type). Trailing ones are dropped, others get no name.
_OPTIONAL_OUTPUTS: dict[tuple[str, str], frozenset[int]] = {
    ("", "Dropout"): frozenset({1}),
    ("", "MaxPool"): frozenset({1}),
    ("", "LSTM"): frozenset({0, 1, 2}),
    ("", "GRU"): frozenset({0, 1}),
    ("", "RNN"): frozenset({0, 1}),
    ("", "LayerNormalization"): frozenset({1, 2}),
    ("", "Unique"): frozenset({1, 2, 3}),
    ("com.microsoft", "SkipLayerNormalization"): frozenset({1, 2, 3}),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): frozenset({1, 2, 3}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveUnused(Pass):
    """Removes nodes, outputs, initializers, functions and opset imports that nothing uses."""

    name: ClassVar[str] = "remove-unused"
    claims_speed: ClassVar[bool] = False

    def call(self, model: ir.Model) -> PassResult:
        """Sweeps until nothing more is unused, in time linear in the nodes."""
        rewrites: Counter[str] = Counter()
        _remove_functions(model, rewrites)
        graphs = [model.graph, *(function.graph for function in model.functions.values())]
        for graph in graphs:
            _sweep(graph, rewrites)
        # A removed node or branch may have held the last call of a function.
        _remove_functions(model, rewrites)
        _remove_opset_imports(model, rewrites)
        return PassResult(model, rewrites)


def _sweep(graph: ir.Graph, rewrites: Counter[str]) -> None:
    dropped = True
    while dropped:
        nodes = list(all_nodes(graph))
        dead = [node for node in nodes if node.outputs and is_dead(node)]
        removed, _ = remove_dead(dead)
        rewrites["unused-node"] += len(removed)
        # Branches compute values for the outputs dropped here, so those nodes may be dead now.
        dropped = False
        for node in nodes:
            if _is_attached(node):
                rewrites["unused-output"] += _drop_optional_outputs(node)
                count = _drop_control_flow_outputs(node)
                rewrites["unused-branch-output"] += count
                dropped = dropped or bool(count)
    for owner in graph_tree(graph):
        for name, value in list(owner.initializers.items()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del owner.initializers[name]
                rewrites["unused-initializer"] += 1


def _is_attached(node: ir.Node) -> bool:
    """False for a removed node and for one inside a removed node, whose graph has no outputs."""
    return isinstance(node.graph, ir.Graph) and bool(node.graph.outputs)


def _is_used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _drop_optional_outputs(node: ir.Node) -> int:
    optional = _OPTIONAL_OUTPUTS.get((node.domain, node.op_type))
    if optional is None:
        return 0
    count = 0
    for index, value in enumerate(node.outputs):
        if index in optional and value.name and not _is_used(value):
            value.name = ""
            count += 1
    size = len(node.outputs)
    while size > 1 and not node.outputs[size - 1].name:
        size -= 1
    node.resize_outputs(size)
    return count


def _drop_control_flow_outputs(node: ir.Node) -> int:
    """Takes unused results out of an If, and unused scan outputs out of a Loop."""
    if node.domain or node.op_type not in ("If", "Loop"):
        return 0
    # A Loop yields its carried values first, and its body yields the condition before those.
    first, shift = (0, 0) if node.op_type == "If" else (len(node.inputs) - 2, 1)
    unused = [
        index for index, value in enumerate(node.outputs) if index >= first and not _is_used(value)
    ]
    # A Loop runs for its carried values as well; an If needs at least one output.
    if not unused or len(unused) == len(node.outputs):
        return 0
    for body in subgraphs_of(node):
        for index in reversed(unused):
            body.outputs.pop(index + shift)
    _rebuild(node, [value for i, value in enumerate(node.outputs) if i not in set(unused)])
    return len(unused)


def _rebuild(node: ir.Node, kept: list[ir.Value]) -> None:
    """Replaces the node by one with the `kept` outputs only; outputs of a node cannot move."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    outputs = [
        ir.Value(name=v.name, type=v.type, shape=v.shape, metadata_props=dict(v.metadata_props))
        for v in kept
    ]
    attributes = list(node.attributes.values())
    node.attributes.clear()
    new = ir.Node(
        node.domain,
        node.op_type,
        node.inputs,
        attributes,
        outputs=outputs,
        version=node.version,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, new)
    for old, value in zip(kept, outputs, strict=True):
        old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _remove_functions(model: ir.Model, rewrites: Counter[str]) -> None:
    used: set[ir.OperatorIdentifier] = set()
    pending = [model.graph] if model.functions else []
    while pending:
        for node in all_nodes(pending.pop()):
            function = model.functions.get(node.op_identifier())
            if function is not None and function.identifier() not in used:
                used.add(function.identifier())
                pending.append(function.graph)
    for identifier in [key for key in model.functions if key not in used]:
        del model.functions[identifier]
        rewrites["unused-function"] += 1


def _remove_opset_imports(model: ir.Model, rewrites: Counter[str]) -> None:
    if not model.functions and set(model.opset_imports) <= {""}:
        return
    used = {"", *(node.domain for node in all_nodes(model.graph))}
    for function in model.functions.values():
        own = {"", *(node.domain for node in all_nodes(function.graph))}
        rewrites["unused-opset-import"] += _forget(function.opset_imports, own)
        # Runtimes look up the domains of a function's nodes in the model as well.
        used |= own | {function.domain}
    rewrites["unused-opset-import"] += _forget(model.opset_imports, used)


def _forget(imports: dict[str, int], used: set[str]) -> int:
    unused = [domain for domain in imports if domain not in used]
    for domain in unused:
        del imports[domain]
    return len(unused)

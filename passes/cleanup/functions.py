"""Model-local functions, put in place of their calls.

    y = domain.F<a=3>(x)  with  F<a>(p) => (r) { q = Op<b=@a>(p) r = Neg(q) }
        -> q' = Op<b=3>(x)  y = Neg(q')

Attribute references take the value of the call, else the function's default, else they vanish, and
so do inputs that the call leaves out. Calls in subgraphs, in inlined bodies and in functions that
stay are inlined too. Values, nodes, and whatever the body's own subgraphs define get names that are
unique in the model; outputs keep the names that the call gave them. A function without a call left
is removed.

Refused, each with its reason: functions named in `keep`; a function written for another opset than
its caller imports; a call that passes a graph as an attribute. A function that calls itself, in
one step or several, is no valid ONNX and raises an error that names the cycle.
"""

from __future__ import annotations

import dataclasses
import graphlib
from collections import Counter, deque
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import remove_node
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_nodes, graph_tree, subgraphs_of

_RULE = "inline-function"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InlineFunctions(Pass):
    """Replaces every call of a model-local function by the function's body.

    Attributes:
        keep: Functions to leave alone, as `domain::name`.
    """

    name: ClassVar[str] = "inline-functions"
    claims_speed: ClassVar[bool] = False
    keep: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> PassResult:
        """Inlines calls, outer ones first.

        Raises:
            InvalidModelError: A function calls itself.
            InvalidInputError: `keep` names a function that the model does not have.
        """
        known = {_label(function) for function in model.functions.values()}
        unknown = [name for name in self.keep if name not in known]
        if unknown and known:
            raise InvalidInputError(
                f"{self.name}: keep names {unknown[0]!r}, but the functions of the model are "
                f"{', '.join(sorted(known))}"
            )
        if not model.functions:
            return PassResult(model)
        _check_recursion(model)
        inliner = _Inliner(model, frozenset(self.keep))
        inliner.run(model.graph, model.opset_imports)
        # Functions that stay, because they are kept, refused or not called, may call others.
        stay: set[ir.OperatorIdentifier] = set()
        inliner.run_in_functions(inliner.called_by(model.graph), stay)
        for identifier in model.functions:
            if identifier not in inliner.inlined:
                inliner.run_in_functions([identifier], stay)
        for identifier in inliner.inlined:
            if identifier not in stay:
                del model.functions[identifier]
        return PassResult(model, inliner.rewrites, inliner.refusals)


def _label(function: ir.Function) -> str:
    return f"{function.domain}::{function.name}"


def _check_recursion(model: ir.Model) -> None:
    calls = {
        identifier: {
            node.op_identifier()
            for node in all_nodes(function.graph)
            if node.op_identifier() in model.functions
        }
        for identifier, function in model.functions.items()
    }
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        cycle = [_label(model.functions[identifier]) for identifier in error.args[1]]
        raise InvalidModelError(
            f"the model's functions call each other in a circle: {' -> '.join(reversed(cycle))}"
        ) from error


class _Inliner:
    def __init__(self, model: ir.Model, keep: frozenset[str]) -> None:
        self._functions = model.functions
        self._keep = keep
        self._names = Names(model)
        self.rewrites: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self.inlined: set[ir.OperatorIdentifier] = set()

    def called_by(self, graph: ir.Graph) -> list[ir.OperatorIdentifier]:
        calls = (node.op_identifier() for node in all_nodes(graph))
        return [identifier for identifier in calls if identifier in self._functions]

    def run_in_functions(
        self, identifiers: list[ir.OperatorIdentifier], done: set[ir.OperatorIdentifier]
    ) -> None:
        """Inlines the calls in functions that stay, and in those that they go on calling."""
        pending = list(identifiers)
        while pending:
            identifier = pending.pop()
            if identifier in done:
                continue
            done.add(identifier)
            function = self._functions[identifier]
            for graph in graph_tree(function.graph):
                for value in _values_of(graph):
                    # New names in the function must differ from those that it has.
                    self._names.unique(value.name or "")
            self.run(function.graph, function.opset_imports)
            pending.extend(self.called_by(function.graph))

    def run(self, graph: ir.Graph, imports: dict[str, int]) -> None:
        """Inlines the calls in a graph and its subgraphs."""
        work = deque(all_nodes(graph))
        while work:
            node = work.popleft()
            function = self._functions.get(node.op_identifier())
            if function is None:
                continue
            reason = self._refusal(node, function, imports)
            if reason:
                self.refusals.append(Refusal(_RULE, node.name or node.op_type, reason))
                continue
            self.inlined.add(function.identifier())
            self.rewrites[_RULE] += 1
            for domain in _domains(function):
                imports.setdefault(domain, function.opset_imports.get(domain, 1))
            for inner in self._inline(node, function):
                work.extend(_with_inner_nodes(inner))

    def _refusal(self, node: ir.Node, function: ir.Function, imports: dict[str, int]) -> str:
        if _label(function) in self._keep:
            return "the option keep names the function"
        for domain in _domains(function):
            version = function.opset_imports.get(domain)
            if version is not None and imports.get(domain, version) != version:
                return (
                    f"the function is written for version {version} of domain "
                    f"{domain or 'ai.onnx'!r}, its caller imports {imports[domain]}"
                )
        attributes = [*node.attributes.values(), *function.attributes.values()]
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in attributes):
            return "a graph is passed to the function as an attribute"
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            return "the call has more inputs or outputs than the function"
        return ""

    def _inline(self, call: ir.Node, function: ir.Function) -> list[ir.Node]:
        """Puts a copy of the body before the call, and removes the call."""
        body = function.clone()
        graph = call.graph
        assert isinstance(graph, ir.Graph)
        parameters = list(body.inputs)
        outputs = list(body.outputs)
        body.outputs.clear()
        arguments = [*call.inputs, *[None] * (len(parameters) - len(call.inputs))]
        _bind_attributes(body, call)
        self._rename(body, call)
        for parameter, argument in zip(parameters, arguments, strict=True):
            _redirect(parameter, argument)
        nodes = list(body)
        body.remove(nodes)
        graph.insert_before(call, nodes)
        bound = dict(zip(parameters, arguments, strict=True))
        for old, result in zip(call.outputs, outputs, strict=False):
            new = bound.get(result, result)
            if new is None:
                _redirect(old, None)
                continue
            new.type = new.type or old.type
            if new.shape is None:
                new.shape = old.shape
            replace_value(graph, call, old, new, self._names)
            if result not in bound and not new.is_graph_output() and old.name:
                old.name, new.name = new.name, old.name
        remove_node(call)
        return nodes

    def _rename(self, body: ir.Function, call: ir.Node) -> None:
        prefix = f"{call.name}/" if call.name else ""
        for graph in graph_tree(body.graph):
            for value in _values_of(graph):
                if value.name and not (graph is body.graph and value.is_graph_input()):
                    value.name = self._names.unique(prefix + value.name)
        for node in all_nodes(body.graph):
            node.name = self._names.unique_node(prefix + (node.name or node.op_type))
            for key, text in call.metadata_props.items():
                node.metadata_props.setdefault(key, text)


def _values_of(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(node.outputs)
    return values


def _domains(function: ir.Function) -> set[str]:
    return {node.domain for node in all_nodes(function.graph)}


def _with_inner_nodes(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for graph in subgraphs_of(node):
        yield from all_nodes(graph)


def _redirect(value: ir.Value, target: ir.Value | None) -> None:
    for user, index in value.uses():
        user.replace_input_with(index, target)


def _bind_attributes(body: ir.Function, call: ir.Node) -> None:
    """Gives every attribute reference in the body its value; without one it is left out."""
    for node in all_nodes(body.graph):
        for name, attribute in list(node.attributes.items()):
            reference = attribute.ref_attr_name
            if reference is None:
                continue
            source = call.attributes.get(reference) or body.attributes.get(reference)
            if source is not None and source.ref_attr_name is not None:
                # The caller is a function itself and hands its own parameter on.
                node.attributes[name] = ir.RefAttr(name, source.ref_attr_name, source.type)
            elif source is not None and source.value is not None:
                node.attributes[name] = ir.Attr(name, source.type, source.value)
            else:
                del node.attributes[name]

"""Is a model's graph sound? Checked on the protobuf message, before it becomes an ir.Model.

onnx.checker refuses real models (unknown operators, old opsets) and knows more than our passes
need. This checks what would make a pass or ONNX Runtime go wrong, in time linear in the size of
the graph and without recursion: names are defined once and before they are used, attributes hold
what their type says, tensors hold the data that they declare.

What can be repaired is repaired on the way, in the message: nodes out of order are sorted,
attributes without a type (IR version 1) get the type of what they hold, sparse tensors become dense
and types that onnx_ir has no class for (maps, opaque types) are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from onnxopt.core.errors import InvalidModelError
from onnxopt.core.walking import WITH_SUBGRAPHS
from onnxopt.graph.function_calls import check_calls
from onnxopt.graph.scopes import Scope, define, outputs_of, require_text, resolve
from onnxopt.graph.signatures import Signatures, signatures_of
from onnxopt.graph.sparse import make_attribute_dense, make_initializers_dense
from onnxopt.graph.tensor_data import check_tensor, is_external
from onnxopt.graph.topology import describe, sort_nodes
from onnxopt.graph.unsupported_types import clear_negative_dims, clear_unsupported_types

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
    )

# AttributeProto.type -> the field that holds the value.
_VALUE_FIELDS: Final = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors",
    10: "graphs", 11: "sparse_tensor", 12: "sparse_tensors", 13: "tp", 14: "type_protos",
}  # fmt: skip
_TYPES: Final = {field: number for number, field in _VALUE_FIELDS.items()}
# Messages have no default value: an attribute that declares one must hold it.
_MUST_BE_SET: Final = frozenset(("t", "g", "sparse_tensor", "tp"))


@dataclasses.dataclass
class Findings:
    """What the check came across that the conversion needs to know.

    Attributes:
        external: Copies of the tensors with external data, and what to call them in a message. In
            the model their location is now their index in this list.
        types: Serialized types of main-graph inputs and outputs that were left out, by name.
        default_domain: True if a node uses a standard operator.
    """

    external: list[tuple[TensorProto, str]] = dataclasses.field(default_factory=list)
    types: dict[str, bytes] = dataclasses.field(default_factory=dict)
    default_domain: bool = False


def check_structure(model: ModelProto, cuts: Mapping[int, int] | None = None) -> Findings:
    """Checks a whole model and repairs what can be repaired.

    Args:
        model: The model, which is changed.
        cuts: Index of a main-graph initializer to the length of its data, where that was cut out.

    Raises:
        InvalidModelError: What is wrong, in which node or tensor.
    """
    checker = _Checker(cuts or {}, signatures_of(model.opset_import))
    checker.graph(model.graph)
    names = set()
    for function in model.functions:
        name = (function.domain, function.name, function.overload)
        if name in names:
            raise InvalidModelError(f"function {function.domain}::{function.name} is defined twice")
        names.add(name)
        checker.function(function)
    check_calls(model)
    return checker.findings


class _Checker:
    """Visits graphs and collects findings."""

    def __init__(self, cuts: Mapping[int, int], signatures: Signatures) -> None:
        self.findings = Findings()
        self._signatures = signatures
        self._cuts = cuts
        self._in_function = False

    def graph(self, graph: GraphProto) -> None:
        """The main graph and all that is inside it."""
        if not graph.output:
            raise InvalidModelError("the graph has no outputs")
        self._drive(self._graph(graph, None))

    def function(self, function: FunctionProto) -> None:
        """The body of a function, which sees nothing outside it."""
        self._signatures = signatures_of(function.opset_import)
        self._in_function = True
        self._drive(self._function(function))
        self._in_function = False

    def _drive(self, visit: _Visit) -> None:
        """Depth first with a stack of our own; visitors yield the subgraphs they come to."""
        stack = [visit]
        while stack:
            subgraph = next(stack[-1], None)
            if subgraph is None:
                stack.pop()
            else:
                stack.append(self._graph(*subgraph))

    def _graph(self, graph: GraphProto, outer: Scope | None) -> _Visit:
        where = "the graph" if outer is None else f"subgraph {_text(graph.name)!r}"
        scope = Scope(where, set(), outputs_of(graph.node), outer)
        if graph.sparse_initializer:
            make_initializers_dense(graph)
        declared = (graph.input, graph.output, graph.value_info)
        clear_negative_dims(declared)
        taken = clear_unsupported_types(declared)
        if outer is None:
            self.findings.types = taken
        for value in graph.input:
            define(scope, value.name, "input")
        self._initializers(graph, scope)
        yield from self._nodes(graph, scope)
        for value in graph.output:
            if value.name in scope.known:
                continue
            if outer is not None and resolve(value.name, outer):
                raise InvalidModelError(
                    f"{where} returns {value.name!r} of the graph around it; ONNX Runtime refuses "
                    "that, so put an Identity node between"
                )
            raise InvalidModelError(f"{where} has the output {value.name!r}, which nothing defines")

    def _function(self, function: FunctionProto) -> _Visit:
        where = f"function {function.domain}::{function.name}"
        scope = Scope(where, set(), outputs_of(function.node))
        for name in function.input:
            define(scope, name, "input")
        clear_negative_dims((function.value_info,))
        clear_unsupported_types((function.value_info,))
        for attribute in function.attribute_proto:
            self._attribute(attribute, where)
        yield from self._nodes(function, scope)
        for name in function.output:
            if name not in scope.known:
                raise InvalidModelError(f"{where} has the output {name!r}, which nothing defines")

    def _initializers(self, graph: GraphProto, scope: Scope) -> None:
        seen: set[str] = set()
        for index, tensor in enumerate(graph.initializer):
            name = tensor.name
            if name in seen:
                raise InvalidModelError(f"{scope.where} has two initializers named {name!r}")
            seen.add(name)
            if name and name not in scope.known:  # an initializer may be an input's default
                define(scope, name, "initializer")
            cut = self._cuts.get(index) if scope.outer is None else None
            self._tensor(tensor, f"initializer {name!r}", cut)

    def _tensor(self, tensor: TensorProto, where: str, cut: int | None = None) -> None:
        if is_external(tensor):
            copy = tensor.__class__()
            copy.CopyFrom(tensor)
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value=str(len(self.findings.external)))
            self.findings.external.append((copy, where))
        else:
            check_tensor(tensor, where, cut)

    def _nodes(self, graph: GraphProto | FunctionProto, scope: Scope) -> _Visit:
        known = scope.known
        for node in graph.node:
            name, op_type, domain = node.name, node.op_type, node.domain
            if not op_type:
                raise InvalidModelError(f"node {name!r} of {scope.where} has no operator")
            if bytes in (name.__class__, op_type.__class__, domain.__class__):
                require_text(name, "a node's name")
                require_text(op_type, "an operator")
                require_text(domain, "a domain")
            if domain in ("", "ai.onnx"):
                self.findings.default_domain = True
            if node.doc_string.__class__ is bytes:  # no name, so not worth refusing a model
                node.doc_string = _text(node.doc_string)
            for name in node.input:
                if name and name not in known and not resolve(name, scope):
                    raise InvalidModelError(
                        f"node {describe(node)} of {scope.where} uses {_text(name)!r}, which "
                        "nothing defines"
                    )
            given = set()
            for attribute in node.attribute:
                if attribute.name in given:  # of two graphs, one would be nobody's
                    raise InvalidModelError(f"{_attribute_of(attribute, node)} is there twice")
                given.add(attribute.name)
                for subgraph in self._attribute(attribute, node):
                    if op_type not in WITH_SUBGRAPHS and domain in ("", "ai.onnx"):
                        raise InvalidModelError(
                            f"{_attribute_of(attribute, node)} is a graph, which no standard "
                            "operator of that name has"
                        )
                    yield subgraph, scope
            if domain in ("", "ai.onnx"):
                self._signatures.check(node, scope.where)
            for name in node.output:
                if name:
                    define(scope, name, node)
        if scope.unordered:
            order = sort_nodes(graph.node, scope.where)
            nodes = [graph.node[index] for index in order]
            del graph.node[:]
            graph.node.extend(nodes)

    def _attribute(self, attribute: AttributeProto, owner: NodeProto | str) -> list[GraphProto]:
        """Checks an attribute; returns its subgraphs."""
        if attribute.ref_attr_name:
            if not self._in_function:
                raise InvalidModelError(
                    f"{_attribute_of(attribute, owner)} refers to an attribute of a function, "
                    "but is in none"
                )
            return []
        require_text(attribute.name, "an attribute's name")
        held = [field.name for field, _ in attribute.ListFields() if field.name in _TYPES]
        if not attribute.type and len(held) == 1:
            attribute.type = _TYPES[held[0]]  # type: ignore[assignment]
        field = _VALUE_FIELDS.get(attribute.type)
        if field is None:
            raise InvalidModelError(
                f"{_attribute_of(attribute, owner)} has the unknown type {attribute.type}"
            )
        if held not in ([field], [] if field not in _MUST_BE_SET else [field]):
            raise InvalidModelError(
                f"{_attribute_of(attribute, owner)} is declared to hold {field!r} but holds "
                + (" and ".join(map(repr, held)) or "nothing")
            )
        if field == "t":
            self._tensor(attribute.t, _attribute_of(attribute, owner))
        elif field == "tensors":
            for tensor in attribute.tensors:
                self._tensor(tensor, _attribute_of(attribute, owner))
        elif field == "strings":
            for string in attribute.strings:
                _require_utf8(string, _attribute_of(attribute, owner))
        elif field == "g":
            return [attribute.g]
        elif field == "graphs":
            return list(attribute.graphs)
        elif (
            field == "sparse_tensor" and not isinstance(owner, str) and owner.op_type == "Constant"
        ):
            make_attribute_dense(attribute, _attribute_of(attribute, owner))
        elif field in ("sparse_tensor", "sparse_tensors"):
            raise InvalidModelError(
                f"{_attribute_of(attribute, owner)} is a sparse tensor, which is supported only in "
                "Constant nodes"
            )
        return []


_Visit = Iterator[tuple["GraphProto", Scope]]


def _attribute_of(attribute: AttributeProto, owner: NodeProto | str) -> str:
    name = owner if isinstance(owner, str) else f"node {describe(owner)}"
    return f"attribute {attribute.name!r} of {name}"


def _require_utf8(string: bytes, where: str) -> None:
    try:
        string.decode()
    except UnicodeDecodeError as error:
        raise InvalidModelError(f"{where} is not valid UTF-8: {string[:60]!r}") from error


def _text(text: Any) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)

"""The same computation twice.

    a = Op(x), b = Op(x)                       -> a = Op(x), b is a
    a = Add(x, y), b = Add(y, x)               -> one Add (Mul, And, Or, Xor, Equal, ... as well)
    a = Op(x), If(c) { b = Op(x) }             -> the branch reads a; never the other way round

Two nodes are the same if operator, inputs, attributes and the outputs in use agree; attributes are
compared by their bits, so that -0.0 is not 0.0. One sweep in graph order finds chains of any
length, since the users of a removed node read the remaining one before they are looked at. Inputs
are compared by identity: run `deduplicate-initializers` first, so that equal weights are one value.

Refused, each with its reason: random operators (also Dropout whose training mode is not known to be
off), domains that may hold operators with a state. Nodes with subgraphs, Constants with more than
4 KiB and Constants of an outer graph (a runtime looks for constants next to their users) are left
alone. Functions are swept on their own, subgraphs with all that their outer graphs offer.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections import ChainMap, Counter
from collections.abc import Hashable
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import subgraphs_of
from onnxopt.graph.values import constant, opset_version

_RULE = "common-subexpression"
_TENSOR_BYTES = 4096
# Domains whose operators compute the same from the same inputs, but for the random ones below.
_PURE_DOMAINS = frozenset(
    {"", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)
_RANDOM = frozenset(
    [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "BiasDropout",
        "BitmaskDropout",
        "BitmaskBiasDropout",
    ]
)
# Bitwise the same with swapped operands. Max and Min are not: a tie of 0.0 and -0.0 goes by order.
_COMMUTATIVE = frozenset(
    ["Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"]
)
_TRIVIAL = frozenset({"Identity", "Constant"})

_Table = ChainMap[Hashable, ir.Node]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EliminateCommonSubexpressions(Pass):
    """Computes only once what several nodes compute from the same inputs."""

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def call(self, model: ir.Model) -> PassResult:
        """One sweep over every graph, outer graphs before those inside them."""
        sweep = _Sweep(model)
        for graph in [model.graph, *(function.graph for function in model.functions.values())]:
            sweep.visit(graph, ChainMap())
        return PassResult(model, sweep.rewrites, sweep.refusals)


class _Sweep:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = Names(model)
        self.rewrites: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    def visit(self, graph: ir.Graph, seen: _Table) -> None:
        for node in graph:
            bodies = subgraphs_of(node)
            for body in bodies:
                self.visit(body, seen.new_child())
            key = None if bodies else _key(node)
            if key is None:
                continue
            first = seen.get(key)
            if first is None:
                seen[key] = node
                continue
            reason = self._unmergeable(node)
            if reason:
                self.refusals.append(Refusal(_RULE, node.name or node.op_type, reason))
            elif not _is_pointless(node, first):
                self._merge(graph, node, first)

    def _unmergeable(self, node: ir.Node) -> str:
        if node.domain not in _PURE_DOMAINS or node.op_identifier() in self._model.functions:
            return f"operators of domain {node.domain!r} may not be pure functions of their inputs"
        if node.op_type in _RANDOM:
            return "the operator is random"
        if node.op_type == "Dropout" and opset_version(node, self._model) >= 12:
            mode = node.inputs[2] if len(node.inputs) > 2 else None
            known = constant(mode)
            if mode is not None and (known is None or known.any()):
                return "the Dropout may run in training mode, which is random"
        return ""

    def _merge(self, graph: ir.Graph, node: ir.Node, first: ir.Node) -> None:
        for old, new in zip(node.outputs, first.outputs, strict=True):
            new.type = new.type or old.type
            if new.shape is None:
                new.shape = old.shape
            replace_value(graph, node, old, new, self._names)
        record_rewrite([first], _RULE, [node, first])
        remove_dead([node])
        self.rewrites[_RULE] += 1


def _is_pointless(node: ir.Node, first: ir.Node) -> bool:
    """True if an Identity would take the node's place without saving anything."""
    if node.op_type == "Constant" and node.graph is not first.graph:
        return True
    return node.op_type in _TRIVIAL and any(value.is_graph_output() for value in node.outputs)


def _key(node: ir.Node) -> Hashable | None:
    """What two nodes that compute the same have in common; None if that cannot be told."""
    if not node.outputs:
        return None
    attributes = []
    for name in sorted(node.attributes):
        value = _attribute_key(node.attributes[name])
        if value is None:
            return None
        attributes.append((name, value))
    # Values hash by identity.
    inputs: tuple[ir.Value | None, ...] = tuple(node.inputs)
    if not node.domain and node.op_type in _COMMUTATIVE:
        inputs = tuple(sorted(inputs, key=id))
    named = tuple(bool(value.name) for value in node.outputs)
    return node.op_identifier(), node.version, inputs, tuple(attributes), named


def _attribute_key(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref():
        return "ref", attribute.type, attribute.ref_attr_name
    match attribute.type:
        case ir.AttributeType.FLOAT:
            return attribute.type, struct.pack("<d", attribute.as_float())
        case ir.AttributeType.FLOATS:
            values = attribute.as_floats()
            return attribute.type, struct.pack(f"<{len(values)}d", *values)
        case ir.AttributeType.INT | ir.AttributeType.STRING:
            return attribute.type, attribute.value
        case ir.AttributeType.INTS | ir.AttributeType.STRINGS:
            return attribute.type, tuple(attribute.value)
        case ir.AttributeType.TENSOR:
            # as_tensor() costs more than all the rest: it checks a runtime protocol.
            return _tensor_key(attribute.value)
    return None


def _tensor_key(tensor: ir.TensorProtocol) -> Hashable | None:
    dtype, shape = tensor.dtype, tuple(dim for dim in tensor.shape if isinstance(dim, int))
    if dtype == ir.DataType.STRING or math.prod(shape) * dtype.itemsize > _TENSOR_BYTES:
        return None
    return dtype, shape, tensor.tobytes()

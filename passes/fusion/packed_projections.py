"""Products of one value with two or three weights as one product.

    MatMul(x, A), MatMul(x, B), MatMul(x, C)    -> Split(MatMul(x, [A B C]))
    the same, each with a bias added            -> Split(Add(MatMul(x, [A B C]), [a b c]))

Query, key and value of attention, gate and up of a gated layer. One large product instead of three
has less overhead, but Split copies its result. In float32 on a CPU that evens out or costs 3 %
(`benchmarks/fused_operators.py`); a decoder with 4-bit weights gains 3 % for one token
(`benchmarks/decode_bound.py`). No preset has it.

The weights are joined when they are read: nothing is loaded before the model is saved.

Refused: weights that others use too; more than three products of one value, as the keys and values
of all layers of a decoder that looks at an encoder. Left alone, silently: biases that only some of
them have are not taken in. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.removal import drop_weight, remove_node
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import dims, static_dims
from onnxopt.passes.cleanup.single_node import only_user
from onnxopt.passes.fusion.runtime_operators import is_constant_vector

_RULE = "packed-projections"
_MOST = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackProjections(Pass):
    """Packs query, key and value, or gate and up, into one product."""

    name: ClassVar[str] = "pack-projections"

    def call(self, model: ir.Model) -> PassResult:
        """Packs every group of products of one value."""
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        names, opset = Names(model), model.opset_imports.get("", 1)
        for graph in all_graphs(model):
            groups: dict[ir.Value, list[ir.Node]] = {}
            for node in graph:
                if node.op_type == "MatMul" and not node.domain and _is_projection(node):
                    x = node.inputs[0]
                    assert x is not None
                    groups.setdefault(x, []).append(node)
            for nodes in groups.values():
                if len(nodes) < 2:
                    continue
                reason = _unfit(nodes)
                if reason:
                    refusals.append(Refusal(_RULE, nodes[0].name or "MatMul", reason))
                    continue
                _pack(graph, nodes, names, opset)
                rewrites[_RULE] += 1
        return PassResult(model, rewrites, refusals)


def _is_projection(node: ir.Node) -> bool:
    weight = node.inputs[1]
    shape = static_dims(weight)
    return (
        weight is not None
        and weight.is_initializer()
        and not weight.is_graph_input()
        and shape is not None
        and len(shape) == 2
        and dims(node.outputs[0]) is not None
    )


def _unfit(nodes: Sequence[ir.Node]) -> str:
    weights = [node.inputs[1] for node in nodes]
    if len(nodes) > _MOST:
        return f"more than {_MOST} products of one value"
    if any(weight is None or not only_user(weight) for weight in weights):
        return "a weight is used elsewhere too"
    if len({weight.dtype for weight in weights if weight is not None}) > 1:
        return "the weights differ in type"
    return ""


def _pack(graph: ir.Graph, nodes: Sequence[ir.Node], names: Names, opset: int) -> None:
    """Puts the packed product where the first one is: all users come later."""
    first = nodes[0]
    adds = [_bias_add(node) for node in nodes]
    ends = [add for add in adds if add is not None]
    weights, biases = [node.inputs[1] for node in nodes], []
    if len(ends) == len(nodes):
        biases = [_other(add, node) for add, node in zip(ends, nodes, strict=True)]
    else:
        ends = list(nodes)
    packer = _Packer(graph, names, first.outputs[0], [_columns(weight) for weight in weights])
    packed = packer.add_node("MatMul", first.inputs[0], packer.joined(weights))
    if biases:
        packed = packer.add_node("Add", packed, packer.joined(biases))
    parts = packer.split(packed, opset)
    graph.insert_before(first, packer.made)
    for end, part in zip(ends, parts, strict=True):
        old = end.outputs[0]
        part.type, part.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, part, replace_graph_outputs=True)
        old.name, part.name = names.unique(f"{old.name}_unpacked"), old.name
    for node in (*(ends if biases else ()), *nodes):
        remove_node(node)
    for value in (*weights, *biases):
        assert value is not None
        drop_weight(value)


def _columns(weight: ir.Value | None) -> int:
    shape = static_dims(weight)
    assert shape is not None
    return shape[1]


def _other(add: ir.Node, node: ir.Node) -> ir.Value | None:
    return add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]


def _bias_add(node: ir.Node) -> ir.Node | None:
    """The Add of a constant vector behind the product."""
    output = node.outputs[0]
    if not only_user(output):
        return None
    add = output.consumers()[0]
    if add.op_type != "Add" or add.domain or add.graph is not node.graph:
        return None
    bias = _other(add, node)
    fits = is_constant_vector(bias, _columns(node.inputs[1]))
    return add if fits and bias is not None and bias.is_initializer() else None


class _Packer:
    """Makes the nodes and weights of one packed product.

    Attributes:
        made: The nodes so far, in order.
    """

    def __init__(
        self, graph: ir.Graph, names: Names, like: ir.Value, columns: Sequence[int]
    ) -> None:
        self.made: list[ir.Node] = []
        self._graph = graph
        self._names = names
        self._like = like
        self._columns = columns

    def add_node(self, op_type: str, *inputs: ir.Value | None) -> ir.Value:
        """A node whose output is as wide as all parts together."""
        base = f"{self._like.name}_packed"
        node = ir.node(op_type, inputs, name=self._names.unique_node(f"{base}_{op_type.lower()}"))
        self.made.append(node)
        value = node.outputs[0]
        value.name, value.type = self._names.unique(base), self._like.type
        value.shape = ir.Shape([*(dims(self._like) or ())[:-1], sum(self._columns)])
        return value

    def joined(self, parts: Sequence[ir.Value | None]) -> ir.Value:
        """The parts side by side on their last axis, computed when they are read."""
        tensors = [part.const_value for part in parts if part is not None and part.const_value]
        shape = [*tensors[0].shape.numpy()[:-1], sum(self._columns)]
        dtype = tensors[0].dtype

        def join() -> ir.Tensor[Any]:
            return ir.Tensor(np.concatenate([t.numpy() for t in tensors], axis=-1), dtype=dtype)

        return self._initializer(ir.LazyTensor(join, dtype=dtype, shape=ir.Shape(shape)))

    def split(self, value: ir.Value, opset: int) -> Sequence[ir.Value]:
        """The parts of a packed value."""
        inputs, attributes = [value], [ir.AttrInt64("axis", -1)]
        if opset < 13:
            attributes.append(ir.AttrInt64s("split", self._columns))
        else:
            inputs.append(self._initializer(ir.tensor(np.array(self._columns, np.int64))))
        name = self._names.unique_node(f"{self._like.name}_packed_split")
        count = len(self._columns)
        node = ir.Node("", "Split", inputs, attributes, num_outputs=count, name=name)
        self.made.append(node)
        return node.outputs

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        name = self._names.unique(f"{self._like.name}_packed_weight")
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )  # fmt: skip
        tensor.name = name
        self._graph.register_initializer(value)
        return value

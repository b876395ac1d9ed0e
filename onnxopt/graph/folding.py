"""The mechanics of constant folding: which values are stored, what may grow, what dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Refusal
from onnxopt.core.removal import remove_dead, remove_node
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_graphs, subgraphs_of
from onnxopt.graph.growth import Growth
from onnxopt.graph.inference import infer_model
from onnxopt.graph.resize_scales import resize_scales
from onnxopt.graph.shape_inputs import is_noop_expand, shape_input

_RULE = "fold"
# Before this IR version every initializer had to be a graph input as well.
_FREE_INITIALIZERS = 4


class Folding:
    """One run over a model.

    Attributes:
        rewrites: What was done, by kind.
        refusals: What could have been folded and was not.
    """

    def __init__(self, model: ir.Model, max_growth: int) -> None:
        self.rewrites: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self._model = model
        self._names = Names(model)
        self._inference = infer_model(model)
        self._constants = self._inference.constants
        self._folded: set[ir.Node] = set()
        self._growth = Growth(model, self._constants, self._folded, max_growth)
        self._order: list[ir.Node] = []
        self._shape_constants: dict[Hashable, ir.Value] = {}

    def run(self) -> None:
        """Folds."""
        self._collect(self._model.graph)
        used = [
            value
            for graph in all_graphs(self._model)
            for value in graph.initializers.values()
            if value.uses()
        ]
        for node in self._order:
            if node.graph is not None:  # not removed with the user of its result
                self._resolve_cast_like(node)
                self._rewrite_shape_input(node)
                self._rewrite_resize(node)
        # Consumers are decided on before producers: a producer whose consumers are all folded
        # needs no initializer.
        for node in reversed(self._order):
            self._decide(node)
        for node in reversed(self._order):
            if node in self._folded:
                remove_node(node)
        _remove_unused(used)
        for node, reason in self._constants.failures.items():
            self._refuse(node, reason)
        for node, reason in self._inference.values.oversized.items():
            self._refuse(node, reason)

    def _collect(self, graph: ir.Graph) -> None:
        for node in graph:
            for subgraph in subgraphs_of(node):
                self._collect(subgraph)
            self._order.append(node)

    def _refuse(self, node: ir.Node, reason: str) -> None:
        if node.graph is not None:
            self.refusals.append(Refusal(_RULE, node.name or node.op_type, reason))

    def _resolve_cast_like(self, node: ir.Node) -> None:
        """CastLike to a type that inference knows is a Cast."""
        if node.op_type != "CastLike" or node.domain or node.outputs[0] in self._constants:
            return
        dtype = self._inference.facts[node.outputs[0]].dtype
        # Attributes say how to round, which Cast knows in later versions only.
        if not dtype or node.attributes or len(node.inputs) < 2:
            return
        like = node.inputs[1]
        node.resize_inputs(1)
        node.op_type = "Cast"
        node.attributes["to"] = ir.AttrInt64("to", dtype)
        self.rewrites["resolve-cast-like"] += 1
        if like is not None:
            self._drop_unused(like)

    def _rewrite_shape_input(self, node: ir.Node) -> None:
        if node.outputs[0] in self._constants:
            return
        if is_noop_expand(self._inference, node) and not node.outputs[0].is_graph_output():
            source = node.inputs[0]
            assert source is not None
            node.outputs[0].replace_all_uses_with(source)
            remove_dead([node])
            self.rewrites["remove-expand"] += 1
            return
        found = shape_input(self._inference, node)
        if found is None:
            return
        if found.items is None:
            if found.reason:
                self.refusals.append(
                    Refusal("known-shape", node.name or node.op_type, found.reason)
                )
            return
        computed = node.inputs[found.index]
        assert computed is not None
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        node.replace_input_with(found.index, self._shape_constant(graph, found.items, computed))
        if found.copies_zero:
            node.attributes.pop("allowzero")
        self.rewrites["known-shape"] += 1
        self._drop_unused(computed)

    def _rewrite_resize(self, node: ir.Node) -> None:
        scales = resize_scales(self._inference, node)
        if isinstance(scales, str):
            self.refusals.append(Refusal("known-shape", node.name or node.op_type, scales))
        elif scales is not None:
            graph, computed = node.graph, node.inputs[3]
            assert isinstance(graph, ir.Graph)
            assert computed is not None
            stored = self._shape_constant(graph, scales, computed)
            node.resize_inputs(3)
            node.replace_input_with(2, stored)
            self.rewrites["known-shape"] += 1
            self._drop_unused(computed)

    def _shape_constant(
        self, graph: ir.Graph, items: tuple[int, ...] | tuple[float, ...], computed: ir.Value
    ) -> ir.Value:
        """An initializer of int64 or, for scales, of float32; equal ones are shared."""
        dtype = np.float32 if any(isinstance(item, float) for item in items) else np.int64
        key = (graph, np.dtype(dtype).char, items)
        value = self._shape_constants.get(key)
        if value is None:
            array = np.array(items, dtype)
            name = self._names.unique(f"{computed.name or 'shape'}_known")
            value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            self._register(graph, value)
            self._constants.add_array(value, array)
            self._shape_constants[key] = value
        return value

    def _drop_unused(self, value: ir.Value) -> None:
        """Removes the computation of a value that lost its last user."""
        producer = value.producer()
        if producer is not None:
            remove_dead([producer])

    def _decide(self, node: ir.Node) -> None:
        """Folds the node, or leaves it and so makes its inputs needed."""
        graph = node.graph
        if not isinstance(graph, ir.Graph) or not node.outputs:
            return  # removed meanwhile
        if node.domain or not all(value in self._constants for value in node.outputs if value.name):
            return
        is_constant_node = node.op_type == "Constant"
        outputs = [value for value in node.outputs if value.name]
        if any(value.is_graph_output() for value in outputs) and (
            is_constant_node or self._is_stored_output(node)
        ):
            return
        if not any(value.uses() or value.is_graph_output() for value in outputs):
            return  # dead already, which is not for this pass to clean up
        needed = [
            value
            for value in outputs
            if value.is_graph_output() or any(use.node not in self._folded for use in value.uses())
        ]
        tensors: list[ir.TensorProtocol] = []
        for value in needed:
            tensor = self._constants.tensor(value)
            if tensor is None:
                array = self._growth.admitted(node, value, self._inference.facts[value])
                if isinstance(array, str):
                    self._refuse(node, array)
                    return
                tensor = ir.Tensor(array)
            tensors.append(tensor)
        for value, tensor in zip(needed, tensors, strict=True):
            self._materialize(graph, node, value, tensor)
        self._folded.add(node)
        kind = "constant-to-initializer" if is_constant_node else _RULE
        self.rewrites[kind] += 1

    def _is_stored_output(self, node: ir.Node) -> bool:
        """True for an Identity that only gives a stored tensor the name of a graph output."""
        source = node.inputs[0] if node.op_type == "Identity" else None
        return source is not None and source.is_initializer()

    def _materialize(
        self, graph: ir.Graph, node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol
    ) -> None:
        name = value.name or ""
        if value.is_graph_output():
            stored = ir.Value(name=self._names.unique(f"{name}_const"))
        else:
            stored = ir.Value(name=name)
            value.name = f"{name}_folded"
        stored.const_value = tensor
        tensor.name = stored.name
        stored.dtype = tensor.dtype
        stored.shape = ir.Shape(tensor.shape.numpy())
        self._register(graph, stored)
        replace_value(graph, node, value, stored, self._names)

    def _register(self, graph: ir.Graph, value: ir.Value) -> None:
        if self._model.ir_version < _FREE_INITIALIZERS:
            self._model.ir_version = _FREE_INITIALIZERS
        graph.register_initializer(value)


def _remove_unused(values: list[ir.Value]) -> None:
    """Removes those of the initializers that lost their last user."""
    for value in values:
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        graph = value.graph
        if isinstance(graph, ir.Graph) and value.is_initializer() and value.name is not None:
            del graph.initializers[value.name]

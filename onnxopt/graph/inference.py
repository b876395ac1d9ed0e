"""One forward sweep: element types, symbolic shapes and small values that are partly known.

    inference = infer_model(model)

writes types and shapes on the values and keeps the rest in tables. What the file says of
intermediate values is not trusted: real files carry stale shapes. Types of graph inputs are
trusted, those of main graph outputs are a contract that is neither changed nor used as a fact.
Functions are not looked into: nodes that call one keep what the file declares for their outputs,
as do all operators that nobody here knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.walking import subgraphs_of
from onnxopt.graph import control_flow, partial
from onnxopt.graph.constants import Array, Constants, constant_tensor
from onnxopt.graph.contrib_types import contrib_facts
from onnxopt.graph.evaluation import NotEvaluatedError, evaluate, is_evaluated
from onnxopt.graph.facts import UNKNOWN, Fact, declared, store
from onnxopt.graph.partial import MOST_ELEMENTS, Partial
from onnxopt.graph.schema_types import VALUE_INPUTS, Inferred, SchemaTypes
from onnxopt.graph.shape_rules import SHAPE_RULES, Elements, RuleInputs
from onnxopt.graph.spatial_rules import SPATIAL_RULES
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import int_attribute

_RULES = {**SHAPE_RULES, **SPATIAL_RULES}

_INT64, _INT32 = ir.DataType.INT64.value, ir.DataType.INT32.value
_BOOL = ir.DataType.BOOL.value
_PARTIAL_TYPES = frozenset((_INT64, _INT32, _BOOL))
# Folding may need an intermediate of this size; more only where the inputs are large themselves.
_LARGEST_INTERMEDIATE_BYTES = 64 * 1024 * 1024
# Their results have a size that only the values decide, so they are computed in the sweep.
_SIZED_BY_VALUES = frozenset(("NonZero", "Compress"))
_LARGEST_SIZED_BY_VALUES = 1 << 20


def infer_model(model: ir.Model) -> Inference:
    """Sweeps over the model, subgraphs included, and writes types and shapes on its values.

    The nodes must be in topological order.
    """
    inference = Inference(model)
    inference.run()
    return inference


class Inference:
    """What the sweep found.

    Attributes:
        constants: Initializers and what can be computed from them.
        facts: Type and shape by value, also of graph inputs and outputs.
        partial: Partly known elements of small integer tensors that are no constants.
        oversized: Nodes over constants that are not computed because the result is too large.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.constants = Constants()
        self.facts: dict[ir.Value, Fact] = {}
        self.partial: dict[ir.Value, Partial] = {}
        self.oversized: dict[ir.Node, str] = {}
        self.symbols = Symbols(_input_symbols(model))
        self._opsets = model.opset_imports
        self.opset = self._opsets.get("", 1)
        self._schemas = SchemaTypes(self._opsets)
        self._as_partial: dict[ir.Value, Partial] = {}

    def dims(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The shape; what inference cannot name has a symbol that equals only itself."""
        return self.facts.get(value, UNKNOWN).dims

    def elements(self, value: ir.Value | None) -> Elements | None:
        """The elements of a small integer tensor; None where the rank or the count is unknown."""
        if value is None:
            return None
        array = self.partial.get(value)
        if array is None:
            known = self.small_array(value)
            if known is None or known.dtype.kind not in "iub":
                return None
            array = known
        items: list[Dim | bool | None] = array.reshape(-1).tolist()
        return items

    def small_array(self, value: ir.Value) -> Array | None:
        """The array of a constant with few elements, computed if need be."""
        if value not in self.constants:
            return None
        fact = self.facts.get(value, UNKNOWN)
        static = fact.static_dims
        if static is None or math.prod(static) > MOST_ELEMENTS:
            return None
        return self.constants.array(value)

    def run(self) -> None:
        """Does the sweep."""
        for value in self.model.graph.inputs:
            self.facts[value] = declared(value, self.symbols)
        self.sweep(self.model.graph)

    def sweep(self, graph: ir.Graph) -> None:
        """Visits the nodes of one graph; facts of its inputs are set already."""
        facts = self.facts
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            if value.is_graph_input():
                facts.setdefault(value, declared(value, self.symbols))
                continue
            fact = Fact(tensor.dtype.value, tuple(tensor.shape.numpy()))
            facts[value] = fact
            self.constants.add_tensor(value, tensor)
            if value.type is None or value.shape is None:
                store(value, fact)
        is_main = graph is self.model.graph
        for node in graph:
            for value, fact in zip(node.outputs, self._visit(node), strict=False):
                facts[value] = fact
                if not (is_main and value.is_graph_output()):
                    store(value, fact)

    def _visit(self, node: ir.Node) -> Sequence[Fact]:
        if not node.domain:
            if node.op_type == "Constant":
                return self._constant(node)
            if node.op_type == "Shape" or node.op_type == "Size":
                return self._shape_or_size(node)
        inputs = [None if v is None else self.facts.get(v, UNKNOWN) for v in node.inputs]
        graphs = list(subgraphs_of(node))
        if graphs:
            return control_flow.visit(self, node, graphs, inputs)
        outputs = self._types(node, inputs)
        if node.domain:
            return outputs
        constants = self.constants
        if node.inputs and all(v is None or v in constants for v in node.inputs):
            return self._constant_node(node, inputs, outputs)
        return self._partial_node(node, outputs)

    def _types(self, node: ir.Node, inputs: Sequence[Fact | None]) -> Sequence[Fact]:
        schema = self._schemas.schema(node)
        if schema is None or (node.domain, node.op_type, node.overload) in self.model.functions:
            facts = contrib_facts(node, inputs, self.symbols)
            return facts or [declared(value, self.symbols) for value in node.outputs]
        values: dict[int, Array] = {}
        for index in VALUE_INPUTS.get(node.op_type, ()):
            if index < len(node.inputs):
                value = node.inputs[index]
                array = None if value is None else self.small_array(value)
                if array is not None:
                    values[index] = array
        inferred = self._schemas.infer(node, schema, inputs, values)
        if inferred.facts is not None:
            return inferred.facts
        return self._completed(node, inputs, inferred)

    def _completed(
        self, node: ir.Node, inputs: Sequence[Fact | None], inferred: Inferred
    ) -> list[Fact]:
        """onnx's answer with the dimensions that it could not name."""
        rule = None if node.domain else _RULES.get(node.op_type)
        ruled: Sequence[tuple[Dim, ...]] = ()
        if rule is not None:
            ruled = (
                rule(
                    RuleInputs(
                        node,
                        inputs,
                        lambda i: self.elements(node.inputs[i]) if i < len(node.inputs) else None,
                        self.symbols,
                        self.opset,
                    )
                )
                or ()
            )
        facts = []
        for index, (dtype, dims, other) in enumerate(inferred.raw):
            rule_dims = ruled[index] if index < len(ruled) else None
            if dims is None or (rule_dims is not None and len(rule_dims) == len(dims)):
                named = rule_dims
                if dims is not None and rule_dims is not None:
                    named = tuple(
                        r if d is None else d for d, r in zip(dims, rule_dims, strict=True)
                    )
            else:
                named = tuple(
                    dim
                    if dim is not None
                    else self.symbols.fresh()
                    if inferred.key is None
                    else self.symbols.keyed((inferred.key, index, axis))
                    for axis, dim in enumerate(dims)
                )
            facts.append(Fact(dtype, named, other))
        return facts

    def _constant(self, node: ir.Node) -> Sequence[Fact]:
        tensor = constant_tensor(node)
        if tensor is None:
            return self._types(node, [])
        self.constants.add_tensor(node.outputs[0], tensor)
        return (Fact(tensor.dtype.value, tuple(tensor.shape.numpy())),)

    def _shape_or_size(self, node: ir.Node) -> Sequence[Fact]:
        value, output = node.inputs[0], node.outputs[0]
        dims = None if value is None else self.dims(value)
        if node.op_type == "Size":
            if dims is not None:
                self._set_elements(output, partial.size_of(dims), _INT64)
            return (Fact(_INT64, ()),)
        if dims is None:
            return (Fact(_INT64, (self.symbols.fresh(),)),)
        end = node.attributes.get("end")
        selected = dims[int_attribute(node, "start", 0) : None if end is None else end.as_int()]
        self._set_elements(output, partial.as_partial(selected), _INT64)
        return (Fact(_INT64, (len(selected),)),)

    def _set_elements(self, value: ir.Value, array: Partial, dtype: int) -> None:
        if partial.is_fully_known(array):
            self.constants.add_array(value, array.astype(ir.DataType(dtype).numpy()))
        else:
            self.partial[value] = array

    def _constant_node(
        self, node: ir.Node, inputs: Sequence[Fact | None], outputs: Sequence[Fact]
    ) -> Sequence[Fact]:
        """A node over constants: computed now if small, noted for later otherwise."""
        if not is_evaluated(node) or any(fact.other is not None for fact in outputs):
            return outputs
        dtypes = [ir.DataType(fact.dtype) if fact.dtype else None for fact in outputs]
        if ir.DataType.STRING in dtypes or None in dtypes:
            return outputs
        read = [_elements(fact) for fact in inputs if fact is not None]
        made = [_elements(fact) for fact in outputs]
        limit = MOST_ELEMENTS
        if node.op_type in _SIZED_BY_VALUES:
            limit, made = _LARGEST_SIZED_BY_VALUES, [0]
        if max(read) <= limit and max(made) <= limit:
            return self._computed(node, outputs, dtypes)
        if math.inf in made:
            return outputs
        size = sum(
            count * dtype.itemsize for count, dtype in zip(made, dtypes, strict=True) if dtype
        )
        if size > max(_LARGEST_INTERMEDIATE_BYTES, 4 * sum(read)):
            self.oversized[node] = f"{node.op_type} would make {size / 2**20:.0f} MiB"
            return outputs
        self.constants.add_node(node, self.opset, dtypes)
        return outputs

    def _computed(
        self, node: ir.Node, outputs: Sequence[Fact], dtypes: Sequence[ir.DataType | None]
    ) -> Sequence[Fact]:
        arrays = [None if value is None else self.constants.array(value) for value in node.inputs]
        if any(
            array is None and value is not None
            for array, value in zip(arrays, node.inputs, strict=True)
        ):
            return outputs
        try:
            results = evaluate(node, arrays, self.opset, dtypes)
        except NotEvaluatedError as reason:
            self.constants.failures[node] = str(reason)
            return outputs
        facts = []
        for value, array, fact in zip(node.outputs, results, outputs, strict=True):
            self.constants.add_array(value, array)
            facts.append(Fact(fact.dtype, array.shape))
        return facts

    def _partial_node(self, node: ir.Node, outputs: Sequence[Fact]) -> Sequence[Fact]:
        if any(fact.dtype not in _PARTIAL_TYPES for fact in outputs) or not outputs:
            return outputs
        count = _elements(outputs[0])
        if count > MOST_ELEMENTS and count != math.inf:
            return outputs
        arrays = [None if value is None else self._partial_of(value) for value in node.inputs]
        if not any(array is not None for array in arrays):
            return outputs
        known = [None if value is None else self.constants.known(value) for value in node.inputs]
        results = partial.compute(node, arrays, known, self.opset)
        if results is None:
            return outputs
        facts = []
        for value, array, fact in zip(node.outputs, results, outputs, strict=True):
            self._set_elements(value, array, fact.dtype)
            facts.append(Fact(fact.dtype, array.shape))
        return facts

    def _partial_of(self, value: ir.Value) -> Partial | None:
        array = self.partial.get(value)
        if array is None:
            array = self._as_partial.get(value)
        if array is None:
            fact = self.facts.get(value, UNKNOWN)
            if fact.dtype not in _PARTIAL_TYPES or fact.static_dims is None:
                return None
            if value in self.constants:
                known = self.small_array(value)
                if known is None:
                    return None
                array = partial.as_partial(known.reshape(-1).tolist(), known.shape)
            elif math.prod(fact.static_dims) <= MOST_ELEMENTS:
                array = np.full(fact.static_dims, None, object)
            else:
                return None
            self._as_partial[value] = array
        return array


def _elements(fact: Fact) -> float:
    static = fact.static_dims
    return math.inf if static is None else math.prod(static)


def _input_symbols(model: ir.Model) -> set[str]:
    """Symbols that the graph inputs use, which no fresh symbol may repeat."""
    return {
        dim.value
        for value in model.graph.inputs
        for dim in value.shape or ()
        if not isinstance(dim, int) and dim.value
    }

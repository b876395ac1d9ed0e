"""One forward sweep: element types, symbolic shapes and small values that are partly known.

    inference = infer_model(model)

writes types and shapes on the values and keeps the rest in tables. What the file says of
intermediate values is not trusted: real files carry stale shapes. Types of graph inputs are
trusted, those of main graph outputs are a contract that is neither changed nor used as a fact; one
of another rank than the output has is dropped.
Functions are not looked into: nodes that call one keep what the file declares for their outputs,
as do all operators that nobody here knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.core.walking import subgraphs_of
from onnxopt.graph import control_flow
from onnxopt.graph.constants import Array, Constants, constant_tensor
from onnxopt.graph.contrib import contrib_facts
from onnxopt.graph.facts import UNKNOWN, Fact, declared, store
from onnxopt.graph.known_values import KnownValues
from onnxopt.graph.partial import Partial
from onnxopt.graph.schema_types import VALUE_INPUTS, Inferred, SchemaTypes
from onnxopt.graph.shape_rules import SHAPE_RULES, Elements, RuleInputs
from onnxopt.graph.spatial_rules import SPATIAL_RULES
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import rank

_WITH_BODIES = frozenset(("If", "Loop", "Scan", "SequenceMap"))
_RULES = {**SHAPE_RULES, **SPATIAL_RULES}


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
        facts: Type and shape by value, also of graph inputs and outputs.
        values: What is known of elements.
        opset: Version of the default domain.
        symbols: Names for dimensions that have none.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.facts: dict[ir.Value, Fact] = {}
        self.symbols = Symbols(_input_symbols(model))
        # The default domain has two spellings; nodes always have the short one.
        opsets = dict(model.opset_imports)
        if "ai.onnx" in opsets:
            opsets.setdefault("", opsets["ai.onnx"])
        self.opset = opsets.get("", 1)
        # Shapes that results of subgraphs had at first.
        self.said: dict[ir.Value, ir.Shape | None] = {}
        self.values = KnownValues(self.facts, self.symbols, self.opset)
        self._schemas = SchemaTypes(opsets)

    @property
    def constants(self) -> Constants:
        """Initializers and what can be computed from them."""
        return self.values.constants

    @property
    def partial(self) -> dict[ir.Value, Partial]:
        """Partly known elements of small integer tensors that are no constants."""
        return self.values.partial

    def dims(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The shape; what inference cannot name has a symbol that equals only itself."""
        return self.facts.get(value, UNKNOWN).dims

    def elements(self, value: ir.Value | None) -> Elements | None:
        """The elements of a small integer tensor; None where the rank or the count is unknown."""
        return self.values.elements(value)

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
                elif fact.dims is not None and rank(value) not in (None, len(fact.dims)):
                    value.shape = None  # of a rank that the output cannot have

    def _visit(self, node: ir.Node) -> Sequence[Fact]:
        if not node.domain:
            if node.op_type == "Constant":
                return self._constant(node)
            if node.op_type == "Shape" or node.op_type == "Size":
                return self.values.visit_shape(node)
        inputs = [None if v is None else self.facts.get(v, UNKNOWN) for v in node.inputs]
        if node.attributes and (node.domain or node.op_type in _WITH_BODIES):
            graphs = subgraphs_of(node)
            if graphs:
                return control_flow.visit(self, node, graphs, inputs)
        outputs = self._types(node, inputs)
        return outputs if node.domain else self.values.visit(node, inputs, outputs)

    def forget(self, graph: ir.Graph) -> None:
        """Drops what an earlier sweep found in a graph whose inputs are now known less well."""
        for value in graph.inputs:
            self.values.forget_value(value)
        for node in graph:
            self.values.forget(node)
            for subgraph in subgraphs_of(node):
                self.forget(subgraph)

    def _types(self, node: ir.Node, inputs: Sequence[Fact | None]) -> Sequence[Fact]:
        schema = self._schemas.schema(node)
        if schema is None or (node.domain, node.op_type, node.overload) in self.model.functions:
            facts = contrib_facts(self._rule_inputs(node, inputs))
            return facts or [declared(value, self.symbols) for value in node.outputs]
        values: dict[int, Array] = {}
        for index in VALUE_INPUTS.get(node.op_type, ()):
            if index < len(node.inputs):
                value = node.inputs[index]
                array = None if value is None else self.values.small_array(value)
                if array is not None:
                    values[index] = array
        inferred = self._schemas.infer(node, schema, inputs, values)
        if inferred.facts is not None:
            return inferred.facts
        return self._completed(node, inputs, inferred)

    def _completed(
        self, node: ir.Node, inputs: Sequence[Fact | None], inferred: Inferred
    ) -> list[Fact]:
        """The answer of onnx with the dimensions that it could not name."""
        rule = None if node.domain else _RULES.get(node.op_type)
        ruled: Sequence[tuple[Dim, ...]] = ()
        if rule is not None:
            ruled = rule(self._rule_inputs(node, inputs)) or ()
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

    def _rule_inputs(self, node: ir.Node, inputs: Sequence[Fact | None]) -> RuleInputs:
        return RuleInputs(
            node,
            inputs,
            lambda i: self.elements(node.inputs[i]) if i < len(node.inputs) else None,
            self.symbols,
            self.opset,
        )

    def _constant(self, node: ir.Node) -> Sequence[Fact]:
        tensor = constant_tensor(node)
        if tensor is None:
            return self._types(node, [])
        self.constants.add_tensor(node.outputs[0], tensor)
        return (Fact(tensor.dtype.value, tuple(tensor.shape.numpy())),)


def _input_symbols(model: ir.Model) -> set[str]:
    """Symbols that the graph inputs use, which no fresh symbol may repeat."""
    return {
        dim.value
        for value in model.graph.inputs
        for dim in value.shape or ()
        if not isinstance(dim, int) and dim.value
    }

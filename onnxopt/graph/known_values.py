"""Elements of values as far as they are known: constants, shapes, what is computed from both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from onnxopt.graph import partial
from onnxopt.graph.constants import Array, Computation, Constants
from onnxopt.graph.evaluation import NotEvaluatedError, evaluate, is_evaluated
from onnxopt.graph.facts import UNKNOWN, Fact
from onnxopt.graph.partial import MOST_ELEMENTS, Partial
from onnxopt.graph.shape_rules import Elements
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import int_attribute

_INT64 = ir.DataType.INT64.value
_PARTIAL_TYPES = frozenset((_INT64, ir.DataType.INT32.value, ir.DataType.BOOL.value))
# Folding may need an intermediate of this size; more only where the inputs are large themselves.
_LARGEST_INTERMEDIATE_BYTES = 64 * 1024 * 1024
# Their results have a size that only the values decide, so they are computed in the sweep.
_SIZED_BY_VALUES = frozenset(("NonZero", "Compress"))
_LARGEST_SIZED_BY_VALUES = 1 << 20


class KnownValues:
    """What the sweep knows of elements, filled node by node in topological order.

    Attributes:
        constants: Initializers and what can be computed from them.
        partial: Partly known elements of small integer tensors that are no constants.
        oversized: Nodes over constants that are not computed because the result is too large.
    """

    def __init__(self, facts: Mapping[ir.Value, Fact], symbols: Symbols, opset: int) -> None:
        self.constants = Constants()
        self.partial: dict[ir.Value, Partial] = {}
        self.oversized: dict[ir.Node, str] = {}
        self._facts = facts
        self._symbols = symbols
        self._opset = opset
        self._unpacked: dict[ir.Value, Partial] = {}

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
        if _elements(self._facts.get(value, UNKNOWN)) > MOST_ELEMENTS:
            return None
        return self.constants.array(value)

    def visit_shape(self, node: ir.Node) -> Sequence[Fact]:
        """The facts of Shape and Size, whose values follow from the shape of their input."""
        value, output = node.inputs[0], node.outputs[0]
        dims = None if value is None else self._facts.get(value, UNKNOWN).dims
        if node.op_type == "Size":
            if dims is not None:
                self._set(output, partial.size_of(dims), _INT64)
            return (Fact(_INT64, ()),)
        if dims is None:
            return (Fact(_INT64, (self._symbols.fresh(),)),)
        end = node.attributes.get("end")
        selected = dims[int_attribute(node, "start", 0) : None if end is None else end.as_int()]
        self._set(output, partial.as_partial(selected), _INT64)
        return (Fact(_INT64, (len(selected),)),)

    def visit(
        self, node: ir.Node, inputs: Sequence[Fact | None], outputs: Sequence[Fact]
    ) -> Sequence[Fact]:
        """Computes a node of the default domain as far as possible.

        Returns:
            The facts of its outputs, with the shapes that came out.
        """
        runs, reads = node, node.inputs
        if node.op_type == "CastLike":
            if not outputs[0].dtype or node.attributes:
                return outputs
            # Only the type of the second input matters, and that is known by now.
            runs, reads, inputs = _cast(outputs[0].dtype), node.inputs[:1], inputs[:1]
        if reads and all(value is None or value in self.constants for value in reads):
            return self._visit_constant(node, runs, reads, inputs, outputs)
        return self._visit_partial(node, runs, reads, outputs)

    def forget(self, node: ir.Node) -> None:
        """Drops what was found for the outputs of a node that is visited again."""
        self.constants.discard(node)
        self.oversized.pop(node, None)
        for value in node.outputs:
            self.forget_value(value)

    def forget_value(self, value: ir.Value) -> None:
        """Drops what was found for the elements of a value, which may have another size now."""
        self.partial.pop(value, None)
        self._unpacked.pop(value, None)

    def _set(self, value: ir.Value, array: Partial, dtype: int) -> None:
        array = partial.in_range(array, ir.DataType(dtype))
        if partial.is_fully_known(array):
            self.constants.add_array(value, array.astype(ir.DataType(dtype).numpy()))
        else:
            self.partial[value] = array

    def _visit_constant(
        self,
        node: ir.Node,
        runs: ir.Node,
        reads: Sequence[ir.Value | None],
        inputs: Sequence[Fact | None],
        outputs: Sequence[Fact],
    ) -> Sequence[Fact]:
        """A node over constants: computed now if small, noted for later otherwise."""
        if not is_evaluated(runs, self._opset) or any(not fact.dtype for fact in outputs):
            return outputs
        dtypes = [ir.DataType(fact.dtype) for fact in outputs]
        if ir.DataType.STRING in dtypes:
            return outputs
        computation = Computation(runs, reads, self._opset, dtypes)
        read = max(_elements(fact) for fact in inputs if fact is not None)
        made = [_elements(fact) for fact in outputs]
        limit = MOST_ELEMENTS
        if node.op_type in _SIZED_BY_VALUES:
            limit, made = _LARGEST_SIZED_BY_VALUES, [0]
        if read <= limit and max(made) <= limit:
            return self._compute(node, computation, outputs)
        if math.inf in made:
            return outputs
        size = sum(count * dtype.itemsize for count, dtype in zip(made, dtypes, strict=True))
        if size > max(_LARGEST_INTERMEDIATE_BYTES, 4 * read):
            self.oversized[node] = f"{node.op_type} would make {size / 2**20:.0f} MiB"
            return outputs
        self.constants.add_node(node, computation)
        return outputs

    def _compute(
        self, node: ir.Node, computation: Computation, outputs: Sequence[Fact]
    ) -> Sequence[Fact]:
        arrays = [None if v is None else self.constants.array(v) for v in computation.inputs]
        if any(
            array is None and value is not None
            for array, value in zip(arrays, computation.inputs, strict=True)
        ):
            return outputs
        try:
            results = evaluate(computation.node, arrays, self._opset, computation.dtypes)
        except NotEvaluatedError as reason:
            self.constants.failures[node] = str(reason)
            return outputs
        facts = []
        for value, array, fact in zip(node.outputs, results, outputs, strict=True):
            self.constants.add_array(value, array)
            facts.append(Fact(fact.dtype, array.shape))
        return facts

    def _visit_partial(
        self,
        node: ir.Node,
        runs: ir.Node,
        reads: Sequence[ir.Value | None],
        outputs: Sequence[Fact],
    ) -> Sequence[Fact]:
        if not outputs or not partial.has_rule(runs):
            return outputs
        if any(fact.dtype not in _PARTIAL_TYPES for fact in outputs):
            return outputs
        count = _elements(outputs[0])
        if MOST_ELEMENTS < count < math.inf:
            return outputs
        arrays = [None if value is None else self._unpack(value) for value in reads]
        if not any(array is not None for array in arrays):
            return outputs
        known = [None if value is None else self.constants.known(value) for value in reads]
        results = partial.compute(runs, arrays, known, self._opset)
        if results is None:
            return outputs
        facts = []
        for value, array, fact in zip(node.outputs, results, outputs, strict=True):
            self._set(value, array, fact.dtype)
            facts.append(Fact(fact.dtype, array.shape))
        return facts

    def _unpack(self, value: ir.Value) -> Partial | None:
        """Any small integer value as a partial tensor, even if none of its elements is known."""
        array = self.partial.get(value)
        if array is None:
            array = self._unpacked.get(value)
        if array is None:
            fact = self._facts.get(value, UNKNOWN)
            static = fact.static_dims
            if fact.dtype not in _PARTIAL_TYPES or static is None:
                return None
            if math.prod(dim or 1 for dim in static) > MOST_ELEMENTS:  # also of what NumPy refuses
                return None
            known = self.small_array(value)
            if known is not None:
                array = partial.as_partial(known.reshape(-1).tolist(), known.shape)
            else:
                array = np.full(static, None, object)
            self._unpacked[value] = array
        return array


@lru_cache
def _cast(dtype: int) -> ir.Node:
    return ir.Node("", "Cast", [], [ir.AttrInt64("to", dtype)], num_outputs=1)


def _elements(fact: Fact) -> float:
    static = fact.static_dims
    return math.inf if static is None else math.prod(static)

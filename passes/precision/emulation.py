"""What a converted model computes, told in float32.

ONNX Runtime's CPU kernels compute float16 models in float32 and drop casts that cancel, and have
few kernels for bfloat16: on a CPU the outputs of the converted model do not show what a GPU makes
of it. A float32 model that rounds every value which would be half does, but for numbers below the
smallest normal one and for what an accumulator loses.

    x  ->  c = (2^s + 1) x',  c - (c - x'),   x' = x within the range       Veltkamp's splitting
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.precision.half import Conversion, ConvertToHalf, constant_tensor
from onnxopt.passes.precision.half_types import is_float
from onnxopt.passes.precision.half_weights import LARGEST_FLOAT16, half_tensor

# Binary digits of a number, and the largest one (for bfloat16: that can still be scaled).
_DIGITS = {ir.DataType.FLOAT16: (11, LARGEST_FLOAT16), ir.DataType.BFLOAT16: (8, 1e33)}


def emulate_half(model: ir.Model, options: ConvertToHalf) -> None:
    """Makes a float32 model round where the converted one does, in place."""
    _Emulation(model, options).run()


class _Emulation(Conversion):
    def run(self) -> None:
        chosen, halves = self.choose()
        everything = [
            (node, index) for node, slots in chosen.items() for index in sorted(slots.inputs)
        ]
        for node, index in everything:
            value = node.inputs[index]
            if value is None or value in halves or not is_float(value):
                continue
            tensor = constant_tensor(value)
            if (value, self.to) not in self._cast:
                self._cast[value, self.to] = (
                    self._round(value) if tensor is None else self._constant(value, tensor)
                )
            node.replace_input_with(index, self._cast[value, self.to])
        for value in halves:
            self._replace(value)

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name = self.names.unique(f"{value.name}_rounded")
        numbers = half_tensor(tensor, self.to, name).numpy().astype(np.float32)
        new = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(numbers.shape),
            const_value=ir.Tensor(numbers, name=name),
        )
        self._graph_of(value).register_initializer(new)
        return new

    def _replace(self, value: ir.Value) -> None:
        """Every user reads the rounded value, and so does the graph if it is an output."""
        users, was_output = tuple(value.uses()), value.is_graph_output()
        rounded = self._round(value)
        for node, index in users:
            node.replace_input_with(index, rounded)
        if was_output:
            outputs = self._graph_of(value).outputs
            for index, output in enumerate(outputs):
                if output is value:
                    outputs[index] = rounded
            name, value.name = value.name, self.names.unique(f"{value.name}_exact")
            rounded.name = name

    def _round(self, value: ir.Value) -> ir.Value:
        digits, largest = _DIGITS[self.to]
        constants = [
            ir.node("Constant", [], {"value_float": number})
            for number in (-largest, largest, float((1 << (24 - digits)) + 1))
        ]
        low, high, factor = (node.outputs[0] for node in constants)
        bounded = ir.node("Min", [value, high])
        inside = ir.node("Max", [bounded.outputs[0], low])
        scaled = ir.node("Mul", [inside.outputs[0], factor])
        rest = ir.node("Sub", [scaled.outputs[0], inside.outputs[0]])
        rounded = ir.node("Sub", [scaled.outputs[0], rest.outputs[0]])
        nodes = [*constants, bounded, inside, scaled, rest, rounded]
        for node in nodes:
            node.name = self.names.unique_node("round")
            node.outputs[0].name = self.names.unique(f"{value.name}_round")
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        rounded.outputs[0].shape = value.shape
        producer, graph = value.producer(), self._graph_of(value)
        if producer is not None:
            graph.insert_after(producer, nodes)
        else:
            graph.insert_before(next(iter(graph)), nodes)
        return rounded.outputs[0]

    @staticmethod
    def _graph_of(value: ir.Value) -> ir.Graph:
        producer = value.producer()
        graph = value.graph if producer is None else producer.graph
        assert isinstance(graph, ir.Graph)
        return graph

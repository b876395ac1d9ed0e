"""Values inside the bodies of If, Loop and Scan, made outputs of the model by their extremes.

ONNX Runtime shows nothing of a body but its outputs. So a body gets one output more for each value:

    [min, max, mean] of the value and zero        in the body
    zeros, in the other branches of an If         if the value is not computed
    [min, max, mean] of all iterations            behind a Loop or Scan, which stack them

and so on outwards. These are three numbers whatever the shape, so a loop can stack them even if
shapes change between iterations, and they take no memory. Zero is in every range that is quantized
with, so counting it changes nothing; the mean is there because NaN and infinity show in it.

The body of a SequenceMap is not entered: its outputs are sequences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.walking import Enclosing, enclosing_graphs, subgraphs_of

_ENDS = 3
_FLOAT = ir.DataType.FLOAT
_ENTERED = ("If", "Loop", "Scan")
_CONSTANTS: dict[str, NDArray[Any]] = {
    "flat": np.array([-1], np.int64),
    "zero": np.zeros(1, np.float32),
    "zeros": np.zeros(_ENDS, np.float32),
}


class NestedValues:
    """A model that shows the extremes of values of its subgraphs.

    Args:
        model: Left as it is; weights are shared. With inferred types.
        names: Values; those that no subgraph computes in float32 are left out.
        within: Positions of nodes in the main graph; only values inside these. All by default.

    Attributes:
        model: The copy.
        shown: Name of a value by that of the value of the main graph with its extremes. Branches
            may compute values of the same name: then several stand for it.
        hidden: Names of the values that cannot be shown.
    """

    def __init__(
        self, model: ir.Model, names: Iterable[str], within: Collection[int] | None = None
    ) -> None:
        self.model = model.clone()
        self.shown: dict[str, str] = {}
        self.hidden: set[str] = set()
        self._names = Names(self.model)
        self._constants: dict[tuple[ir.Graph, str], ir.Value] = {}
        wanted = set(names)
        self._around = dict(enclosing_graphs(self.model.graph))
        position = {node: index for index, node in enumerate(self.model.graph)}
        for graph in list(self._around):
            path = self._path(graph)
            if not path or (within is not None and position[path[-1].node] not in within):
                continue
            values = [v for v in _values(graph) if v.name in wanted and v.dtype == _FLOAT]
            if all(one.node.op_type in _ENTERED for one in path):
                for value in values:
                    self._show(graph, value, path)
            else:
                self.hidden |= {value.name or "" for value in values}

    def _path(self, graph: ir.Graph) -> list[Enclosing]:
        """What is around a graph, outwards."""
        path: list[Enclosing] = []
        around = self._around[graph]
        while around is not None:
            path.append(around)
            around = self._around[around.graph]
        return path

    def _show(self, graph: ir.Graph, value: ir.Value, path: list[Enclosing]) -> None:
        ends = self._extremes(graph, value)
        for around in path:
            ends = self._outwards(graph, ends, around)
            if around.node.op_type != "If":
                ends = self._extremes(around.graph, ends)
            graph = around.graph
        self.shown[ends.name or ""] = value.name or ""

    def _extremes(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """Smallest, largest and mean of the elements of a value and zero."""
        flat = self._node(graph, "Reshape", [value, self._constant(graph, "flat")])
        padded = self._node(graph, "Concat", [flat, self._constant(graph, "zero")], axis=0)
        parts = [
            self._node(graph, op_type, [padded], keepdims=1)
            for op_type in ("ReduceMin", "ReduceMax", "ReduceMean")
        ]
        ends = self._node(graph, "Concat", parts, axis=0)
        ends.shape = ir.Shape([_ENDS])
        return ends

    def _outwards(self, graph: ir.Graph, ends: ir.Value, around: Enclosing) -> ir.Value:
        """Makes a value of a body an output of its node."""
        node = around.node
        graph.outputs.append(ends)
        if node.op_type == "If":
            for other in subgraphs_of(node):
                if other is not graph:
                    zeros = self._constant(other, "zeros")
                    other.outputs.append(self._node(other, "Identity", [zeros]))
        for name in ("scan_output_directions", "scan_output_axes"):
            if name in node.attributes:
                node.attributes.add(ir.AttrInt64s(name, [*node.attributes[name].as_ints(), 0]))
        node.resize_outputs(len(node.outputs) + 1)
        output = node.outputs[-1]
        output.name, output.type = self._names.unique(f"{ends.name}_out"), ends.type
        return output

    def _node(
        self, graph: ir.Graph, op_type: str, inputs: list[ir.Value], **attributes: int
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=self._names.unique_node("observe"))
        output = node.outputs[0]
        output.name = self._names.unique("observed")
        output.type = ir.TensorType(_FLOAT)
        graph.append(node)
        return output

    def _constant(self, graph: ir.Graph, kind: str) -> ir.Value:
        if (graph, kind) not in self._constants:
            array = _CONSTANTS[kind]
            name = self._names.unique(f"observe_{kind}")
            value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
            value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
            graph.register_initializer(value)
            self._constants[graph, kind] = value
        return self._constants[graph, kind]


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]

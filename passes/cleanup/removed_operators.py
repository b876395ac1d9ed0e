"""Operators that left the standard with opset 10, as what they stand for.

    Affine(x)              alpha x + beta
    ImageScaler(x)         scale x + bias, a bias for each channel of axis 1
    Crop(x)                a Slice of height and width
    Scale(x)               scale x
    ScaledTanh(x)          alpha tanh(beta x)
    ParametricSoftplus(x)  alpha softplus(beta x)

ONNX Runtime still runs them in models of opset 9 and older; no converter knows them. Only for
opsets 7 to 9, where constants broadcast as they do today.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError
from onnxopt.core.names import Names
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import ints_attribute

_OPSETS = range(7, 10)
REMOVED = frozenset({"Affine", "Crop", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"})


def replace_removed_operators(model: ir.Model) -> int:
    """Rewrites them in place, in subgraphs as well; returns how many there were."""
    if model.opset_imports.get("", 1) not in _OPSETS:
        return 0
    names = Names(model)
    count = 0
    for graph in all_graphs(model):
        for node in list(graph):
            if node.domain or node.op_type not in REMOVED:
                continue
            new = _Replacement(model.graph, node, names).nodes()
            graph.insert_before(node, new)
            replace_value(graph, node, node.outputs[0], new[-1].outputs[0], names)
            graph.remove(node, safe=True)
            count += 1
    return count


class _Replacement:
    """The nodes for one of them; constants become initializers of the main graph."""

    def __init__(self, main: ir.Graph, node: ir.Node, names: Names) -> None:
        self._main, self._node, self._names = main, node, names
        self._made: list[ir.Node] = []

    def nodes(self) -> list[ir.Node]:
        """The nodes, the last of which makes the result."""
        source = self._node.inputs[0]
        assert source is not None
        op_type = self._node.op_type
        if op_type == "Crop":
            self._crop(source)
        elif op_type == "ImageScaler":
            scaled = self._op("Mul", source, self._constant(self._float("scale", 1.0)))
            bias = self._node.attributes.get("bias")
            if bias is not None:
                self._op("Add", scaled, self._constant(np.reshape(bias.as_floats(), (-1, 1, 1))))
        elif op_type == "Scale":
            self._op("Mul", source, self._constant(self._float("scale", 1.0)))
        else:
            alpha = self._constant(self._float("alpha", 1.0))
            beta = self._constant(self._float("beta", 0.0 if op_type == "Affine" else 1.0))
            if op_type == "Affine":
                self._op("Add", self._op("Mul", source, alpha), beta)
            else:
                inner = self._op("Mul", source, beta)
                function = "Tanh" if op_type == "ScaledTanh" else "Softplus"
                self._op("Mul", self._op(function, inner), alpha)
        return self._made

    def _crop(self, source: ir.Value) -> None:
        border = ints_attribute(self._node, "border") or (0, 0, 0, 0)
        size = ints_attribute(self._node, "scale")
        if len(border) != 4 or (size and len(size) != 2):
            raise InvalidModelError(
                f"node {self._node.name or 'Crop'!r} has a border of {len(border)} numbers and a "
                f"scale of {len(size or ())}; Crop has 4, and 2 or none"
            )
        left, top, right, bottom = border
        if size:
            ends = [top + size[0], left + size[1]]
        else:
            ends = [-side if side else sys.maxsize for side in (bottom, right)]
        self._op("Slice", source, starts=[top, left], ends=ends, axes=[2, 3])

    def _op(self, op_type: str, *inputs: ir.Value, **attributes: Sequence[int]) -> ir.Value:
        name = self._names.unique_node(f"{self._node.name or self._node.op_type}_{op_type}")
        made = ir.node(op_type, inputs, attributes, name=name)
        output, old = made.outputs[0], self._node.outputs[0]
        output.name = self._names.unique(f"{old.name}_{op_type}")
        output.type = old.type
        self._made.append(made)
        return output

    def _constant(self, value: Any) -> ir.Value:
        name = self._names.unique(f"{self._node.outputs[0].name}_constant")
        source = self._node.inputs[0]
        is_half = source is not None and source.dtype == ir.DataType.FLOAT16
        array = np.asarray(value, np.float16 if is_half else np.float32)
        made = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        made.shape, made.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self._main.register_initializer(made)
        return made

    def _float(self, name: str, default: float) -> float:
        attribute = self._node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

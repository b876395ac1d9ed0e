"""Which weights can be stored in 4 or 8 bits: those that only MatMul, Gemm and Gather read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

from onnxopt.core.passes import Refusal
from onnxopt.core.walking import all_graphs, graph_tree
from onnxopt.graph.values import dims, int_attribute, rank

Kind = Literal["product", "lookup"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_READERS = ("MatMul", "Gemm", "Gather")
RULE = "weight"


@dataclasses.dataclass(frozen=True)
class WeightSite:
    """A weight and nodes that read it alike.

    Attributes:
        value: The initializer, or the output of a Constant node.
        tensor: Its data, a matrix.
        kind: "product" for MatMul and Gemm, "lookup" for Gather.
        axis: The axis that is summed over; of a table, the one within a row.
        users: The nodes.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    kind: Kind
    axis: int
    users: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """Name of the weight."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.tensor.shape.numpy()
        return rows, columns

    @property
    def length(self) -> int:
        """How many products are summed, or how long a row of the table is."""
        return self.shape[self.axis]


def find_sites(model: ir.Model, smallest: int) -> tuple[list[WeightSite], list[Refusal]]:
    """The weights of a model that can be quantized, and those that one would expect to be.

    A weight that is read in two ways (an embedding table that is the output head as well) gives a
    site for each.

    Args:
        model: The main graph and its subgraphs are searched.
        smallest: Weights of fewer elements are left alone.
    """
    sites: list[WeightSite] = []
    refusals: list[Refusal] = []
    for value, tensor in _weights(model):
        found: dict[tuple[Kind, int], list[ir.Node]] = {}
        reason = _reason(value, tensor, smallest)
        expected = False
        for node, index in value.uses():
            expected = expected or (node.op_type in _READERS and not node.domain)
            use = _use(node, index)
            if isinstance(use, str):
                reason = reason or use
            else:
                found.setdefault(use, []).append(node)
        if reason:
            if expected and tensor.dtype.is_floating_point() and len(tensor.shape) > 1:
                refusals.append(Refusal(RULE, value.name or "", reason))
        else:
            for (kind, axis), users in found.items():
                sites.append(WeightSite(value, tensor, kind, axis, tuple(dict.fromkeys(users))))
    for function in model.functions.values():
        for graph in graph_tree(function.graph):
            refusals += [
                Refusal(RULE, node.name or "", "it is in a function; inline functions first")
                for node in graph
                if node.op_type in ("MatMul", "Gemm") and not node.domain
            ]
    return sites, refusals


def _weights(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
        for node in graph:
            attribute = node.attributes.get("value")
            if node.op_type == "Constant" and not node.domain and attribute is not None:
                yield node.outputs[0], attribute.as_tensor()


def _reason(value: ir.Value, tensor: ir.TensorProtocol, smallest: int) -> str:
    if value.is_graph_input():
        return "it is also a graph input that the caller may replace"
    if value.is_graph_output():
        return "it is a graph output"
    if tensor.dtype not in _FLOATS:
        return f"it is {tensor.dtype.name}, not float32, float16 or bfloat16"
    if len(tensor.shape) != 2:
        return f"it has {len(tensor.shape)} dimensions, not 2"
    if tensor.size < smallest:
        return f"it has fewer than {smallest} elements"
    return ""


def _use(node: ir.Node, index: int) -> tuple[Kind, int] | str:
    """How a node reads a weight, or why it cannot read integers instead."""
    if node.domain:
        return f"it is also used by {node.domain}.{node.op_type}"
    if node.op_type == "MatMul":
        if index != 1 or node.inputs[0] is node.inputs[1]:
            return "it is the left side of a product"
        if rank(node.inputs[0]) == 1:
            return "it is multiplied with a vector"
        return "product", 0
    if node.op_type == "Gemm":
        if index != 1:
            return "it is not the right side of Gemm"
        alpha, beta = (
            node.attributes[name].as_float() if name in node.attributes else 1.0
            for name in ("alpha", "beta")
        )
        biased = len(node.inputs) > 2 and node.inputs[2] is not None
        if alpha != 1.0 or (biased and beta != 1.0):
            return "it is scaled by alpha or beta of Gemm"
        if int_attribute(node, "transA", 0):
            return "Gemm transposes its left side"
        return "product", 1 if int_attribute(node, "transB", 0) else 0
    if node.op_type == "Gather" and index == 0:
        if int_attribute(node, "axis", 0) != 0:
            return "Gather takes columns of it, not rows"
        return "lookup", 1
    return f"it is also used by {node.op_type}"


def bias_of(node: ir.Node, columns: int) -> tuple[ir.Value | None, bool]:
    """The bias of Gemm, and whether it is a vector of one number per column."""
    if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
        return None, False
    return node.inputs[2], dims(node.inputs[2]) == (columns,)

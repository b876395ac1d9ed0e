"""Activations as uint8 instead of int8: the same steps, counted from another end.

    DQ(Q(x, s, z: int8), s, z)  ->  DQ(Q(x, s, z + 128: uint8), s, z + 128)

Exact: each integer is larger by 128, and so is the zero point. ONNX Runtime's integer kernels for
x86 want uint8 activations and int8 weights. It turns int8 activations around by itself at load, but
not those that several nodes read (a residual connection), and then the layers on both sides see
mixed types and run in float32.

Refused: integers that something else than DequantizeLinear reads; with `avoid_saturation` all of
them, if integer kernels could saturate in one layer: layers between both types would run in float.
Left alone silently: quantized constants (weights stay int8), zero points that are computed or left
out, integers that are a graph output. Subgraphs are rewritten too, functions are not.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import constant
from onnxopt.passes.cleanup.single_node import has_input, producer_of
from onnxopt.passes.quantization.signed_weights import weight_can_saturate
from onnxopt.passes.quantization.tensors import QuantizedTensors, drop_unused

_RULE = "int8-to-uint8"
_DEQUANTIZE = "DequantizeLinear"
_OFFSET = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseUnsignedActivations(Pass):
    """Quantizes activations to uint8 instead of int8, which ONNX Runtime's x86 kernels read.

    Attributes:
        avoid_saturation: Leave models with layers that could saturate on CPUs without VNNI.
    """

    name: ClassVar[str] = "use-unsigned-activations"

    avoid_saturation: bool = False

    def call(self, model: ir.Model) -> PassResult:
        """Changes types and zero points in place."""
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        tensors = QuantizedTensors(Names(model))
        signed = [node for graph in all_graphs(model) for node in graph if _is_signed(node)]
        saturating = next(filter(None, map(_saturating, signed)), "") * self.avoid_saturation
        if saturating:
            refusals.append(Refusal(_RULE, "", saturating))
            signed = []
        for node in signed:
            integers = node.outputs[0]
            others = [user for user in integers.consumers() if not _is_dequantize(user)]
            if others:
                reason = f"{others[0].op_type} reads the integers"
                refusals.append(Refusal(_RULE, node.name or node.op_type, reason))
                continue
            graph = node.graph
            assert isinstance(graph, ir.Graph)
            for user in (node, *integers.consumers()):
                zero = user.inputs[2]
                assert zero is not None
                stored = tensors.store(graph, _shifted(zero), f"{zero.name}_uint8")
                user.replace_input_with(2, stored)
            node.attributes.pop("output_dtype", None)
            integers.dtype = ir.DataType.UINT8
            rewrites[_RULE] += 1
        if rewrites:
            drop_unused(model)
        return PassResult(model, rewrites, refusals)


def _saturating(node: ir.Node) -> str:
    """Which layer behind a QuantizeLinear could saturate, as a reason; "" if none could."""
    users = node.outputs[0].consumers()
    for layer in (layer for user in users for layer in user.outputs[0].consumers()):
        weight = producer_of(layer.inputs[1] if has_input(layer, 1) else None, _DEQUANTIZE)
        if weight is not None and weight_can_saturate(weight):
            name = layer.name or layer.op_type
            return f"the weights of {name} could saturate the 8-bit kernels of this CPU"
    return ""


def _is_signed(node: ir.Node) -> bool:
    if node.op_type != "QuantizeLinear" or node.domain or node.outputs[0].is_graph_output():
        return False
    return _has_signed_zero_point(node) and constant(node.inputs[0]) is None


def _is_dequantize(node: ir.Node) -> bool:
    return node.op_type == _DEQUANTIZE and not node.domain and _has_signed_zero_point(node)


def _has_signed_zero_point(node: ir.Node) -> bool:
    zero = constant(node.inputs[2]) if has_input(node, 2) else None
    return zero is not None and zero.dtype == np.int8


def _shifted(zero: ir.Value) -> NDArray[np.uint8]:
    array = constant(zero)
    assert array is not None
    return np.asarray(array.astype(np.int16) + _OFFSET, np.uint8)

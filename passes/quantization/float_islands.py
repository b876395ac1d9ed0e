"""Keeping in float what was left in float.

    DQ(q, s) -> Conv(w) -> Relu -> Q   =>   DQ(q, [s, s, ..], axis=1) -> Conv(w) -> Relu -> Q

Of a float Conv, ConvTranspose or Gemm between a DequantizeLinear and a QuantizeLinear ONNX Runtime
makes the weight 8-bit by itself, with one scale for all channels (its WeightBiasQuantization): a
node that was too sensitive for a scale per channel would lose even more. It does so only where the
activation has a single scale. The same scale for each channel computes the same numbers. Nodes
between pairs that were in the model before are left as they are.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Set

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.quantization.tensors import QuantizedTensors

_RULE = "float-island"
# Up to this opset DequantizeLinear has one scale; com.microsoft's has them per channel.
_LAST_SINGLE_OPSET = 12


def isolate(
    graph: ir.Graph,
    names: Names,
    tensors: QuantizedTensors,
    opsets: MutableMapping[str, int],
    inserted: Set[ir.Node],
) -> None:
    """Gives the activations of float nodes between pairs a scale for each channel.

    Args:
        graph: With pairs.
        names: Of the model.
        tensors: Of the model.
        opsets: The model's; com.microsoft is added where its operator is needed.
        inserted: The nodes of pairs that are new; one in front of a float node or behind it is.
    """
    for node in graph if inserted else ():
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        behind = _quantize_behind(node)
        if behind is None or inserted.isdisjoint((source, behind)):
            continue
        given = [value for value in source.inputs[1:3] if value is not None]
        arrays = [array for value in given if (array := constant(value)) is not None]
        channels = _input_channels(node)
        if len(arrays) < len(given) or arrays[0].size != 1 or channels < 2:
            continue
        name = source.name or "island"
        domain = source.domain
        if opsets.get("", 1) <= _LAST_SINGLE_OPSET:
            domain = "com.microsoft"
            opsets.setdefault(domain, 1)
        spread = [
            tensors.store(graph, np.broadcast_to(array.reshape(-1), (channels,)), f"{name}_{what}")
            for array, what in zip(arrays, ("scales", "zero_points"), strict=False)
        ]
        new = ir.node(
            "DequantizeLinear",
            [source.inputs[0], *spread],
            {"axis": 1},
            domain=domain,
            name=names.unique_node(f"{name}_by_channel"),
        )
        old = source.outputs[0]
        made = new.outputs[0]
        made.name = names.unique(f"{old.name}_by_channel")
        made.type, made.shape = old.type, old.shape
        graph.insert_before(node, [new])
        node.replace_input_with(0, made)
        record_rewrite([new], _RULE, remove_dead([source])[0])


def _quantize_behind(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear behind a float node whose weight ONNX Runtime would quantize."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return None
    value = node.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        (user,) = value.consumers()
        if user.op_type == "QuantizeLinear":
            return user
        if user.op_type not in ("Relu", "Clip"):
            return None
        value = user.outputs[0]
    return None


def _input_channels(node: ir.Node) -> int:
    weight = constant(node.inputs[1])
    assert weight is not None
    shape: tuple[int, ...] = weight.shape
    if node.op_type == "Conv":
        return shape[1] * int_attribute(node, "group", 1)
    if node.op_type == "ConvTranspose":
        return shape[0]
    if int_attribute(node, "transA", 0):
        return 1
    return shape[1 if int_attribute(node, "transB", 0) else 0]

"""Where the input of weights can be divided by a scale a channel for free.

    x = a * g;  x W         -> x = a * (g / s);  x (s W)      also in normalizations
    x = a * (h V);  x W     -> x = a * (h V / s);  x (s W)    the columns of V are divided: only
                                                              the scales of its integers change

Refused where anything else reads x, or x is a graph output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.graph.values import constant
from onnxopt.passes.quantization.weight_sites import WeightSite

# Input that every element of the output is multiplied with, and the one that is added after it.
_SCALED = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1, None),
    "SimplifiedLayerNormalization": (1, None),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2, None),
}


@dataclasses.dataclass(frozen=True)
class Absorber:
    """What takes the division in.

    Attributes:
        node: The producer of the input.
        indexes: Its constant inputs that are divided.
        upstream: Or the weight whose columns are divided.
    """

    node: ir.Node
    indexes: tuple[int, ...] = ()
    upstream: WeightSite | None = None

    def absorb(self, scales: NDArray[np.float32], names: Names) -> None:
        """Divides the constants; what else shares them keeps its own."""
        for index in self.indexes:
            value = self.node.inputs[index]
            array = constant(value)
            assert value is not None
            assert array is not None
            divided = (array.astype(np.float32) / scales).astype(array.dtype)
            name = names.unique(f"{value.name}_scaled")
            new = ir.Value(
                name=name,
                type=value.type,
                shape=ir.Shape(divided.shape),
                const_value=ir.tensor(divided, name=name),
            )
            assert isinstance(self.node.graph, ir.Graph)
            self.node.graph.register_initializer(new)
            self.node.replace_input_with(index, new)


def find_absorber(
    value: ir.Value, readers: Collection[ir.Node], sites: Mapping[ir.Value, Sequence[WeightSite]]
) -> Absorber | None:
    """What can divide a value, if only `readers` read it.

    Args:
        value: The input of weights, [..., K].
        readers: The products that these weights are in.
        sites: Weights that are going to be quantized, by their values.
    """
    node = value.producer()
    if node is None or value.is_graph_output() or value is not node.outputs[0]:
        return None
    if any(reader not in readers or index != 0 for reader, index in value.uses()):
        return None
    width = value.shape[-1] if value.shape is not None and len(value.shape) else None
    if not isinstance(width, int):
        return None
    if node.op_type in _SCALED:
        scale, bias = _SCALED[node.op_type]
        if not _is_row(node.inputs[scale], width):
            return None
        if bias is None or len(node.inputs) <= bias or node.inputs[bias] is None:
            return Absorber(node, (scale,))
        if node.op_type == "LayerNormalization" and _is_row(node.inputs[bias], width):
            return Absorber(node, (scale, bias))
        return None
    if node.op_type != "Mul" or node.domain:
        return None
    for index, factor in enumerate(node.inputs):
        if _is_row(factor, width):
            return Absorber(node, (index,))
    return next(filter(None, (_upstream(node, v, width, sites) for v in node.inputs)), None)


def _upstream(
    node: ir.Node,
    factor: ir.Value | None,
    width: int,
    sites: Mapping[ir.Value, Sequence[WeightSite]],
) -> Absorber | None:
    product = None if factor is None else factor.producer()
    if factor is None or product is None or len(list(factor.uses())) != 1:
        return None
    if factor.is_graph_output() or product.op_type != "MatMul" or product.domain:
        return None
    found = sites.get(product.inputs[1], ()) if product.inputs[1] is not None else ()
    if len(found) != 1 or found[0].users != (product,) or found[0].shape[1] != width:
        return None
    return Absorber(node, upstream=found[0])


def _is_row(value: ir.Value | None, width: int) -> bool:
    array = constant(value)
    return array is not None and array.size == width == array.shape[-1] and array.dtype.kind in "fV"

"""Quantized weights in the integer type that the target multiplies fast, and exactly.

    DQ(W: uint8, s, z)  ->  DQ(W - 128: int8, s, z - 128)      where no product can saturate
    DQ(W: int8, s, z)   ->  DQ(W + 128: uint8, s, z + 128)     where one can, if that is asked for

Exact: each integer moves by 128, and so does the zero point. ONNX Runtime's x86 kernels multiply
uint8 activations with int8 weights up to 2.5 times as fast as with uint8 weights. But those of CPUs
without VNNI add two such products in 16 bits, which saturate where two neighbouring weights add up
to more than 128: 255 * 128 fits, 255 * 129 does not. With uint8 weights they add in 32 bits.

Weights are those of Conv, Gemm and MatMul on dequantized activations. Left alone silently: computed
integers, blocks, other types. Subgraphs are rewritten too, functions are not.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.cleanup.single_node import has_input, producer_of
from onnxopt.passes.quantization.saturation import can_saturate
from onnxopt.passes.quantization.tensors import QuantizedTensors, drop_unused

_OFFSET = 128
_OTHER = {np.dtype(np.int8): np.dtype(np.uint8), np.dtype(np.uint8): np.dtype(np.int8)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseSignedWeights(Pass):
    """Stores quantized weights as int8, which x86 multiplies fastest, unless products saturate.

    Attributes:
        products_saturate: The target adds two products in 16 bits.
        avoid: Weights with which products would saturate become uint8.
    """

    name: ClassVar[str] = "use-signed-weights"

    products_saturate: bool = False
    avoid: bool = False

    def call(self, model: ir.Model) -> PassResult:
        """Changes types and zero points of weights."""
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        moving = _Moving(Names(model))
        for graph in all_graphs(model):
            for weight in list(dict.fromkeys(_weights(graph))):
                integers = constant(weight.inputs[0])
                if integers is None or not _is_movable(weight, integers):
                    continue
                is_signed = integers.dtype == np.int8
                saturates = self.products_saturate and _can_saturate_as_int8(weight, integers)
                if saturates and not is_signed:
                    reason = "as int8 they could saturate the kernels of this CPU"
                    refusals.append(Refusal("to-int8", weight.name or "weights", reason))
                elif saturates and self.avoid:
                    moving.move(weight, integers)
                    rewrites["to-uint8"] += 1
                elif not saturates and not is_signed:
                    moving.move(weight, integers)
                    rewrites["to-int8"] += 1
        if rewrites:
            drop_unused(model)
        return PassResult(model, rewrites, refusals)


class _Moving:
    """Moves weights by 128; each is stored once however many nodes read it."""

    def __init__(self, names: Names) -> None:
        self._tensors = QuantizedTensors(names)
        self._moved: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}

    def move(self, weight: ir.Node, integers: NDArray[Any]) -> None:
        """Gives a DequantizeLinear integers of the other sign."""
        graph, old, scale = weight.graph, weight.inputs[0], constant(weight.inputs[1])
        assert isinstance(graph, ir.Graph)
        assert old is not None
        assert scale is not None
        dtype = _OTHER[integers.dtype]
        if (graph, old) not in self._moved:
            name = f"{old.name}_{dtype}"
            self._moved[graph, old] = self._tensors.store(graph, _moved(integers, dtype), name)
        zero = constant(weight.inputs[2]) if has_input(weight, 2) else None
        if zero is None:
            zero = np.zeros(scale.shape, integers.dtype)
        stored = self._tensors.store(graph, _moved(zero, dtype), f"{old.name}_zero_point")
        weight.replace_input_with(0, self._moved[graph, old])
        weight.resize_inputs(3)
        weight.replace_input_with(2, stored)


def _moved(integers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The integers of the other type; flipping the highest bit adds or subtracts 128."""
    return np.bitwise_xor(integers.view(np.uint8), np.uint8(_OFFSET)).view(dtype)


def _weights(graph: ir.Graph) -> Iterator[ir.Node]:
    """The DequantizeLinear nodes of weights."""
    for node in graph:
        if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        data, weight = (producer_of(value, "DequantizeLinear") for value in node.inputs[:2])
        if data is not None and weight is not None and weight.graph is graph:
            yield weight


def _is_movable(weight: ir.Node, integers: NDArray[Any]) -> bool:
    if integers.dtype not in _OTHER or int_attribute(weight, "block_size", 0):
        return False
    known = not has_input(weight, 2) or constant(weight.inputs[2]) is not None
    return known and constant(weight.inputs[1]) is not None


def weight_can_saturate(weight: ir.Node) -> bool:
    """True if int8 weights can saturate sums of two products; uint8 ones never do.

    Args:
        weight: The DequantizeLinear of the weights.
    """
    integers = constant(weight.inputs[0])
    if integers is None or integers.dtype != np.int8:
        return False
    return _can_saturate_as_int8(weight, integers)


def _can_saturate_as_int8(weight: ir.Node, integers: NDArray[Any]) -> bool:
    if integers.ndim < 2:
        return False
    signed = integers if integers.dtype == np.int8 else _moved(integers, np.dtype(np.int8))
    # Output channels are those of a Conv's kernel, or the columns of what a MatMul multiplies with.
    axes = {
        0 if user.op_type == "Conv" or int_attribute(user, "transB", 0) else integers.ndim - 1
        for user in weight.outputs[0].consumers()
    }
    return any(can_saturate(signed, axis) for axis in axes)

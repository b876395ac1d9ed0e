"""Weights that are denormal numbers.

    w = [0.5, 3e-41, -2e-44]   -> w = [0.5, 0.0, -0.0]

A float32 below 1.18e-38 is stored without a leading one. CPUs compute with such numbers in
microcode, up to a hundred times slower, and a trained model holds thousands of them where
regularization pushed weights towards zero. Signs are kept. bfloat16 has the exponents of float32
and is treated the same. float16 is not: its denormals are ordinary numbers once they are converted
to the float32 that CPUs compute in.

A weight is changed only where all of its users add it or multiply with it: MatMul, Gemm, Conv, the
recurrent layers, scale and bias of normalizations, attention, Add, Sub and Mul, also behind nodes
that only move data. What such a node computes then changes by at most 1.18e-38 (2.3e-308 in
float64) times what the weight is multiplied with, summed over the products of one element. That is
less than float can tell from zero as long as activations are of ordinary size; an activation of
1e38 times a denormal weight was 1 and is 0 now.

Every weight is read once, in chunks that fit a cache, and only a tensor that has denormals is
copied; one of more than 16 MiB is replaced by a tensor that is computed from the original whenever
it is read.

Refused, each with its reason: an initializer that is also a graph input or a graph output; a single
number, which may guard a division; a tensor with any other user, since zero may be a different
thing than almost zero to it, as it is to Div, Ceil, Cast to bool, Max and Equal. Constant nodes and
the initializers of subgraphs are treated like those of the main graph, and so are Constants in
functions.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import graph_tree
from onnxopt.graph.mapped import tensor_chunks
from onnxopt.graph.values import int_attribute

_RULE = "denormal-weight"
_CHUNK_BYTES = 1 << 18
_LAZY_BYTES = 1 << 24


# Bits of a number as an unsigned integer of its width: the sign, and the largest denormal.
_FORMATS: dict[ir.DataType, tuple[str, int, int]] = {
    ir.DataType.FLOAT: ("u4", 1 << 31, (1 << 23) - 1),
    ir.DataType.DOUBLE: ("u8", 1 << 63, (1 << 52) - 1),
    ir.DataType.BFLOAT16: ("u2", 1 << 15, (1 << 7) - 1),
}
# Operators that only add an input or multiply with it, with these inputs.
_LINEAR: dict[str, Container[int]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "MatMul"), (0, 1)),
    **dict.fromkeys(("Gemm", "Conv", "ConvTranspose", "Attention"), (0, 1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (0, 1, 2, 3, 5, 6, 7)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), (1, 2)),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization"), (1, 2)),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "PRelu"), (1,)),
    **dict.fromkeys(("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul"), (0, 1)),
    **dict.fromkeys(("com.microsoft.FusedGemm", "com.microsoft.FusedConv"), (0, 1, 2)),
    **dict.fromkeys(("com.microsoft.BiasGelu", "com.microsoft.FastGelu"), (1,)),
    **dict.fromkeys(("com.microsoft.Attention", "com.microsoft.GroupQueryAttention"), (0, 1, 2)),
    "com.microsoft.MultiHeadAttention": (0, 1, 2, 3),
    "com.microsoft.SkipLayerNormalization": (2, 3),
    "com.microsoft.SkipSimplifiedLayerNormalization": (2,),
}
_MOVES: dict[str, Container[int]] = {
    **dict.fromkeys(("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"), (0,)),
    **dict.fromkeys(("Expand", "Slice", "Split", "Gather", "Cast"), (0,)),
    "Concat": range(1 << 16),
}
# Types in which a denormal of `_FORMATS` is no larger than what they round away anyway.
_CASTS = (ir.DataType.FLOAT, ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlushDenormals(Pass):
    """Sets weights that are denormal numbers to zero, which CPUs compute with at full speed."""

    name: ClassVar[str] = "flush-denormals"

    def call(self, model: ir.Model) -> PassResult:
        """Reads every floating-point weight once; counts the tensors that changed."""
        flushed: dict[int, ir.TensorProtocol | None] = {}
        rewrites: Counter[str] = Counter()
        refusals = []
        for value, tensor in _weights(model):
            if id(tensor) not in flushed:
                flushed[id(tensor)] = _flush(tensor) if _has_denormals(tensor) else None
            replacement = flushed[id(tensor)]
            if replacement is None:
                continue
            reason = _reason(value, tensor)
            if reason:
                refusals.append(Refusal(_RULE, value.name or "", reason))
                continue
            rewrites[_RULE] += 1
            producer = value.producer()
            if producer is not None:
                producer.attributes["value"] = ir.AttrTensor("value", replacement)
            if producer is None or value.const_value is not None:
                value.const_value = replacement
        return PassResult(model, rewrites, refusals)


def _weights(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Initializers and Constants of a type in which denormals are slow."""
    bodies = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in (inner for body in bodies for inner in graph_tree(body)):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _FORMATS:
                yield value, value.const_value
        for node in graph:
            attribute = node.attributes.get("value")
            if node.op_type != "Constant" or node.domain or attribute is None:
                continue
            if not attribute.is_ref() and attribute.as_tensor().dtype in _FORMATS:
                yield node.outputs[0], attribute.as_tensor()


def _reason(value: ir.Value, tensor: ir.TensorProtocol) -> str:
    if value.is_graph_input():
        return "it is also a graph input that the caller may replace"
    if value.is_graph_output():
        return "it is a graph output"
    if tensor.size == 1:
        return "a single number costs no time and may guard a division"
    return _refused_by_users(value)


def _refused_by_users(value: ir.Value) -> str:
    seen, reached = {value}, [value]
    while reached:
        moved = reached.pop()
        if moved.is_graph_output():
            return "it is moved to a graph output"
        for node, index in moved.uses():
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            if index in _LINEAR.get(name, ()):
                continue
            if index not in _MOVES.get(name, ()) or not _stays_float(node):
                return f"zero may be a different thing than almost zero to its user {name}"
            reached.extend(output for output in node.outputs if output not in seen)
            seen.update(node.outputs)
    return ""


def _stays_float(node: ir.Node) -> bool:
    return node.op_type != "Cast" or int_attribute(node, "to", 0) in _CASTS


def _bit_chunks(tensor: ir.TensorProtocol) -> Iterator[NDArray[Any]]:
    width, _, _ = _FORMATS[tensor.dtype]
    for chunk in tensor_chunks(tensor, _CHUNK_BYTES):
        yield chunk.view(width)


def _denormal_mask(bits: NDArray[Any], sign: int, largest: int) -> NDArray[np.bool_]:
    # Zero wraps around to the largest integer, so that one comparison tells 1..largest.
    magnitude = bits & bits.dtype.type(sign - 1)
    magnitude -= bits.dtype.type(1)
    mask: NDArray[np.bool_] = magnitude < bits.dtype.type(largest)
    return mask


def _has_denormals(tensor: ir.TensorProtocol) -> bool:
    _, sign, largest = _FORMATS[tensor.dtype]
    return any(_denormal_mask(bits, sign, largest).any() for bits in _bit_chunks(tensor))


def _flush(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor without denormals; the one that others may share stays as it is."""

    def compute() -> ir.TensorProtocol:
        width, sign, largest = _FORMATS[tensor.dtype]
        flat = np.empty(tensor.size, width)
        start = 0
        for bits in _bit_chunks(tensor):
            chunk = flat[start : start + bits.size]
            chunk[:] = bits
            chunk[_denormal_mask(bits, sign, largest)] &= chunk.dtype.type(sign)
            start += bits.size
        array = flat.view(tensor.dtype.numpy()).reshape(tensor.shape.numpy())
        return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)

    if tensor.nbytes <= _LAZY_BYTES:
        return compute()
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape, name=tensor.name)

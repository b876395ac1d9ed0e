"""Which inputs and outputs of a node can be float16 or bfloat16, by the operator's schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnxopt.core.walking import subgraphs_of
from onnxopt.graph.schema_types import SchemaTypes

NAMES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}

# Sums over many elements, integer kernels, types given by attributes, and containers of tensors.
_KEPT_NAMES = """
CumSum Range RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli
EyeLike HannWindow HammingWindow BlackmanWindow MelWeightMatrix DFT STFT QuantizeLinear
DequantizeLinear DynamicQuantizeLinear QLinearMatMul QLinearConv MatMulInteger ConvInteger
SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SplitToSequence
ConcatFromSequence Optional OptionalGetElement OptionalHasElement Shape Size Constant
"""
# Operators of ONNX Runtime that take float16 for all of their floats but statistics.
_CONTRIB_NAMES = """
Attention MultiHeadAttention GroupQueryAttention RotaryEmbedding SkipLayerNormalization
SkipSimplifiedLayerNormalization EmbedLayerNormalization BiasGelu FastGelu Gelu QuickGelu
FusedMatMul MatMulNBits GatherBlockQuantized SimplifiedLayerNormalization
"""
_KEPT = frozenset(_KEPT_NAMES.split())
_CONTRIB = frozenset(_CONTRIB_NAMES.split())
# Statistics beside the result, in the type that `stash_type` says.
_FIRST_OUTPUT = frozenset(("LayerNormalization", "SimplifiedLayerNormalization"))


@dataclasses.dataclass(frozen=True)
class Slots:
    """Indexes of a node's inputs and outputs that can be half, and why there are none."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    reason: str = ""


def half_slots(node: ir.Node, schemas: SchemaTypes, to: ir.DataType) -> Slots:
    """The float32 inputs and outputs of a node that the operator also takes as `to`."""
    if node.op_type in _KEPT:
        return Slots(reason=f"{node.op_type} stays in float32")
    if subgraphs_of(node):
        return Slots(reason="control flow hands on float32")
    if any(_is_container(v) for v in (*node.inputs, *node.outputs)):
        return Slots(reason="it reads or makes a sequence or an optional")
    floats_in = {i for i, v in enumerate(node.inputs) if v is not None and is_float(v)}
    floats_out = {i for i, v in enumerate(node.outputs) if is_float(v)}
    if any(v is not None and v.name and v.dtype is None for v in (*node.inputs, *node.outputs)):
        return Slots(reason="the type of an input or output is not known")
    if node.op_type == "Cast" and to in (
        node.inputs[0] and node.inputs[0].dtype,
        node.outputs[0].dtype,
    ):
        return Slots()  # a border already
    if node.domain == "com.microsoft" or node.op_type == "SimplifiedLayerNormalization":
        if node.op_type not in _CONTRIB or to != ir.DataType.FLOAT16:
            return Slots(reason=f"com.microsoft.{node.op_type} is not known to take {to.name}")
        if node.op_type in _FIRST_OUTPUT:
            floats_out &= {0}
        return Slots(frozenset(floats_in), frozenset(floats_out))
    schema = schemas.schema(node)
    if schema is None:
        return Slots(reason=f"{node.domain}.{node.op_type} is not known")
    allowed = {
        one.type_param_str for one in schema.type_constraints if NAMES[to] in one.allowed_type_strs
    }
    inputs = {i for i in floats_in if _formal(schema.inputs, i) in allowed}
    outputs = {i for i in floats_out if _formal(schema.outputs, i) in allowed}
    if node.op_type in _FIRST_OUTPUT:
        outputs &= {0}
    if not outputs and not inputs and (floats_in or floats_out):
        return Slots(reason=f"{node.op_type} takes no {to.name} at this opset")
    return Slots(frozenset(inputs), frozenset(outputs))


def is_float(value: ir.Value) -> bool:
    """True for a float32 tensor."""
    return value.dtype == ir.DataType.FLOAT and not _is_container(value)


def _is_container(value: ir.Value | None) -> bool:
    return (
        value is not None and value.type is not None and not isinstance(value.type, ir.TensorType)
    )


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    return str(parameters[min(index, len(parameters) - 1)].type_str) if parameters else ""

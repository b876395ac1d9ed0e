"""`Fact`: what is known of a value's type, hashable, and its conversions to ir and protobuf."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import onnx
import onnx_ir as ir

from onnxopt.graph.symbolic import Dim, Symbols, is_named


class Fact(NamedTuple):
    """Type and shape of one value.

    Attributes:
        dtype: Element type as its number in ONNX, 0 if unknown. (A plain integer hashes faster
            than the enumeration.)
        dims: Integers and expressions; None if the rank is unknown.
        other: A serialized type of a sequence, optional or map, for which `dtype` is 0.
    """

    dtype: int
    dims: tuple[Dim, ...] | None
    other: bytes | None = None

    @property
    def static_dims(self) -> tuple[int, ...] | None:
        """The dimensions if all are known integers."""
        if self.dims is None:
            return None
        static = tuple(dim for dim in self.dims if isinstance(dim, int))
        return static if len(static) == len(self.dims) else None


UNKNOWN = Fact(0, None)


def declared(value: ir.Value, symbols: Symbols) -> Fact:
    """What the file says of a value; dimensions without a real name get a fresh symbol each."""
    type_ = value.type
    if type_ is None:
        return UNKNOWN
    if not isinstance(type_, ir.TensorType):
        proto = ir.serde.serialize_type(type_)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
        return Fact(0, None, proto.SerializeToString())
    if value.shape is None:
        return Fact(type_.dtype.value, None)
    dims: list[Dim] = []
    for dim in value.shape:
        if isinstance(dim, int):
            dims.append(dim if dim >= 0 else symbols.fresh())
        else:
            dims.append(dim.value if dim.value and is_named(dim.value) else symbols.fresh())
    return Fact(type_.dtype.value, tuple(dims))


def store(value: ir.Value, fact: Fact) -> None:
    """Writes a fact on a value. An unknown shape clears the old one, an unknown type does not."""
    if fact.other is not None:
        proto = onnx.TypeProto.FromString(fact.other)
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
        value.shape = ir.serde.deserialize_type_proto_for_shape(proto)
        return
    if fact.dtype and (
        not isinstance(value.type, ir.TensorType) or value.type.dtype.value != fact.dtype
    ):
        value.type = ir.TensorType(ir.DataType(fact.dtype))
    dims = fact.dims
    value.shape = None if dims is None else ir.Shape(dims)


@lru_cache(maxsize=8192)
def type_proto(fact: Fact) -> onnx.TypeProto:
    """The protobuf type; the caller must not change it."""
    made: onnx.TypeProto
    if fact.other is not None:
        made = onnx.TypeProto.FromString(fact.other)
    else:
        made = onnx.helper.make_tensor_type_proto(fact.dtype, fact.dims)
    return made


def from_type_proto(
    proto: onnx.TypeProto,
) -> tuple[int, tuple[Dim | None, ...] | None, bytes | None]:
    """Type, dimensions (None where nothing names them) and serialized non-tensor type."""
    kind = proto.WhichOneof("value")
    if kind is None:
        return 0, None, None
    if kind != "tensor_type":
        return 0, None, proto.SerializeToString()
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None, None
    dims: list[Dim | None] = []
    for dim in tensor.shape.dim:
        match dim.WhichOneof("value"):
            case "dim_value":
                dims.append(dim.dim_value)
            case "dim_param":
                dims.append(dim.dim_param)
            case _:
                dims.append(None)
    return tensor.elem_type, tuple(dims), None

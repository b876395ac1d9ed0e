"""Value types that onnx_ir has no class for: maps, opaque types, and sequences of them.

scikit-learn's classifiers return `seq(map(int64, float))`. Such a type is taken out of the message
before onnx_ir sees it, kept in the value's `meta`, and put back when the model is saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

_ELEMENT_TYPES: Final = frozenset(dtype.value for dtype in ir.DataType)

TYPE_KEY: Final = "onnxopt.type_proto"
"""Key in `ir.Value.meta` of a serialized TypeProto."""


def clear_unsupported_types(values: Iterable[Iterable[ValueInfoProto]]) -> dict[str, bytes]:
    """Clears the types that onnx_ir cannot hold; returns them, serialized, by the value's name.

    Raises:
        InvalidModelError: A tensor type has an element type that does not exist.
    """
    taken: dict[str, bytes] = {}
    for infos in values:
        for info in infos:
            if not _is_supported(info):
                taken[info.name] = info.type.SerializeToString()
                info.ClearField("type")
    return taken


def clear_negative_dims(values: Iterable[Iterable[ValueInfoProto]]) -> None:
    """Makes dimensions unknown that some exporters write as -1."""
    for infos in values:
        for info in infos:
            for dim in info.type.tensor_type.shape.dim if _has_shape(info) else ():
                if dim.dim_value < 0:
                    dim.ClearField("dim_value")


def _has_shape(info: ValueInfoProto) -> bool:
    # Reading a field that is not there would create it.
    return bool(info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"))


def restore_types(graph: ir.Graph, proto: GraphProto) -> None:
    """Puts the types of a graph's inputs and outputs back into its message."""
    for values, infos in ((graph.inputs, proto.input), (graph.outputs, proto.output)):
        for value, info in zip(values, infos, strict=True):
            if TYPE_KEY in value.meta and not info.HasField("type"):
                info.type.ParseFromString(value.meta[TYPE_KEY])


def _is_supported(info: ValueInfoProto) -> bool:
    value_type = info.type
    while True:
        kind = value_type.WhichOneof("value")
        if kind is None:
            return value_type is info.type
        if kind in ("tensor_type", "sparse_tensor_type"):
            element = getattr(value_type, kind).elem_type
            if element not in _ELEMENT_TYPES:
                raise InvalidModelError(
                    f"value {info.name!r} has the unknown element type {element}"
                )
            return True
        if kind not in ("sequence_type", "optional_type"):
            return False
        value_type = getattr(value_type, kind).elem_type

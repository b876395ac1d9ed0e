"""What identifies an operator and its attributes, hashable, so that analyses can memoize."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import onnx_ir as ir

OpKey = tuple[Hashable, ...]

# A larger tensor in an attribute costs more to hash than the memo saves.
_LARGEST_TENSOR_BYTES = 1024

_INT, _INTS = ir.AttributeType.INT, ir.AttributeType.INTS
_FLOAT, _FLOATS = ir.AttributeType.FLOAT, ir.AttributeType.FLOATS
_STRING, _STRINGS = ir.AttributeType.STRING, ir.AttributeType.STRINGS
_PLAIN = (_INT, _INTS, _FLOAT, _FLOATS, _STRING, _STRINGS)


def attribute_values(node: ir.Node) -> tuple[Hashable, ...] | None:
    """The attributes as a hashable key, or None if one of them is large or a graph."""
    attributes = node.attributes
    if not attributes:
        return ()
    key: list[Hashable] = []
    for name, attribute in attributes.items():
        value: Any = attribute.value
        if attribute.ref_attr_name is not None:
            return None
        if isinstance(value, (int, float, str)):
            # 1 and 1.0 hash alike, and a FLOAT attribute holds a float: the type tells them apart.
            key.append((name, value, type(value)))
        elif isinstance(value, tuple) and attribute.type in _PLAIN:
            key.append((name, value, attribute.type.value))
        elif attribute.type == ir.AttributeType.TENSOR:
            if value.dtype == ir.DataType.STRING or value.nbytes > _LARGEST_TENSOR_BYTES:
                return None
            key.append((name, value.dtype.value, tuple(value.shape), value.tobytes()))
        else:
            return None
    return tuple(key)

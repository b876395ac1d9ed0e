"""Questions that rewrite rules ask about a value: its constant, rank, shape, dtype and opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array that the value always holds, or None.

    An initializer that is also a graph input can be fed by the user and is no constant.
    """
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor is None:
        producer = value.producer()
        if producer is None or producer.op_type != "Constant" or producer.domain:
            return None
        tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """A constant 0-d or 1-d integer tensor as Python integers, or None."""
    array = constant(value)
    if array is None or array.ndim > 1 or array.dtype.kind not in "iu":
        return None
    return tuple(int(item) for item in array.reshape(-1))


def is_uniform(value: ir.Value | None, number: float) -> bool:
    """True if every element of the constant equals `number` exactly (and there is one)."""
    array = constant(value)
    if array is None or array.size == 0 or array.dtype.kind not in "iufV":
        return False
    if array.dtype.kind == "V":  # bfloat16 and friends
        array = array.astype(np.float32)
    return bool(np.all(array == number))


def rank(value: ir.Value | None) -> int | None:
    """Number of dimensions, or None if unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def dims(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Dimensions as integers, symbol names, or None where unknown; None without a rank."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def size_at(value: ir.Value | None, axis: int) -> int | str | None:
    """A dimension; None where it is unknown, or where a broken model has no such axis."""
    shape = dims(value)
    return None if shape is None or not -len(shape) <= axis < len(shape) else shape[axis]


def static_dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape if every dimension is a known integer, else None."""
    shape = dims(value)
    if shape is None or not all(isinstance(dim, int) for dim in shape):
        return None
    return tuple(dim for dim in shape if isinstance(dim, int))


def same_shape(one: ir.Value | None, other: ir.Value | None) -> bool:
    """True if both shapes are provably equal: equal integers or the same symbol, axis by axis."""
    first, second = dims(one), dims(other)
    return first is not None and None not in first and first == second


def broadcasts_into(small: Sequence[int | str | None], large: ir.Value | None) -> bool:
    """True if broadcasting `small` with `large` provably gives the shape of `large`."""
    target = dims(large)
    if target is None or len(small) > len(target):
        return False
    aligned = target[len(target) - len(small) :]
    return all(
        dim == 1 or (dim is not None and dim == wanted)
        for dim, wanted in zip(small, aligned, strict=True)
    )


def opset_version(node: ir.Node, model: ir.Model) -> int:
    """Version of the node's domain that the model imports; 1 if it imports none."""
    return node.version or model.opset_imports.get(node.domain, 1)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """A list-of-integers attribute as a tuple, or None if the node does not have it."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())

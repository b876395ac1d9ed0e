"""Target shapes of Reshape and Expand: which of their entries can be changed, and changing them.

A target is a constant, or a Concat of one-dimensional parts some of which are constant, as
exporters write it for dynamic shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names

_Constant = Callable[[ir.Value | None], list[int] | None]


def is_adjustable(constant: _Constant, target: ir.Value | None, index: int) -> bool:
    """True if entry `index` of a target is a number that the model stores, and not a graph input.

    Args:
        constant: Gives the elements of a constant integer tensor.
        target: The target shape.
        index: The entry.
    """
    return target is not None and _entry(constant, target, index) is not None


def adjust(
    constant: _Constant, target: ir.Value, entries: Mapping[int, int], node: ir.Node, names: Names
) -> ir.Value:
    """A target like `target` with some entries changed; the original is left to its other users.

    Args:
        constant: Gives the elements of a constant integer tensor.
        target: The target shape.
        entries: New number by entry; each is adjustable. Entries 0 and -1 stay as they are.
        node: Its user, in front of which a new Concat goes.
        names: A source of fresh names.
    """
    whole = constant(target)
    if whole is not None:
        return _initializer(_changed(whole, entries), target, node, names)
    concat = target.producer()
    assert concat is not None
    parts: list[ir.Value | None] = []
    start = 0
    for part in concat.inputs:
        size = _length(part)
        assert part is not None
        assert size is not None
        inner = {i - start: size_ for i, size_ in entries.items() if start <= i < start + size}
        found = constant(part)
        if inner and found is not None:
            parts.append(_initializer(_changed(found, inner), part, node, names))
        else:
            parts.append(part)
        start += size
    copy = ir.Node("", "Concat", parts, attributes=[ir.AttrInt64("axis", 0)])
    copy.name = names.unique_node(concat.name or "")
    copy.outputs[0].name = names.unique(target.name or "")
    copy.outputs[0].type, copy.outputs[0].shape = target.type, target.shape
    assert node.graph is not None
    node.graph.insert_before(node, copy)
    return copy.outputs[0]


def _changed(numbers: list[int], entries: Mapping[int, int]) -> list[int]:
    return [
        entries[i] if i in entries and number not in (0, -1) else number
        for i, number in enumerate(numbers)
    ]


def _initializer(numbers: list[int], like: ir.Value, node: ir.Node, names: Names) -> ir.Value:
    name = names.unique(like.name or "")
    tensor = ir.Tensor(np.array(numbers, np.int64), name=name)
    value = ir.Value(name=name, type=like.type, shape=tensor.shape, const_value=tensor)
    assert node.graph is not None
    node.graph.register_initializer(value)
    return value


def _entry(constant: _Constant, target: ir.Value, index: int) -> int | None:
    whole = constant(target)
    if whole is not None:
        return whole[index] if index < len(whole) else None
    concat = target.producer()
    if concat is None or concat.op_type != "Concat" or concat.domain:
        return None
    start = 0
    for part in concat.inputs:
        size = _length(part)
        if size is None:
            return None
        if index < start + size:
            found = constant(part)
            return None if found is None else found[index - start]
        start += size
    return None


def _length(value: ir.Value | None) -> int | None:
    if value is None or value.shape is None or len(value.shape) != 1:
        return None
    size = value.shape[0]
    return size if isinstance(size, int) else None

"""Constants that can stand in for the computed shape input of Reshape, Expand and Slice.

A computed shape need not be known completely: Reshape takes 0 for "as in the input" and one -1 for
"the rest", Expand takes 1 for "as in the input", and the end of a Slice may lie beyond the end.
Runtimes cannot infer a -1 beside a dimension of 0, which a symbol may stand for.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.inference import Inference
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute

_END = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class ShapeInput:
    """What to write into one input of a node.

    Attributes:
        index: Which input.
        items: The constant, or None if there is none.
        reason: Why there is none; "" if the input is simply not known.
        copies_zero: The constant needs Reshape's `allowzero` to be off.
    """

    index: int
    items: tuple[int, ...] | None = None
    reason: str = ""
    copies_zero: bool = False


def shape_input(inference: Inference, node: ir.Node) -> ShapeInput | None:
    """The constant for a node's computed shape input; None if the node has no such input."""
    if node.domain:
        return None
    match node.op_type:
        case "Reshape" if _is_computed(inference, node, 1):
            return _reshape(inference, node)
        case "Expand" if _is_computed(inference, node, 1):
            return _expand(inference, node)
        case "Slice" if _is_computed(inference, node, 2):
            return _slice(inference, node)
    return None


def _is_computed(inference: Inference, node: ir.Node, index: int) -> bool:
    if index >= len(node.inputs):
        return False
    value = node.inputs[index]
    return value is not None and value not in inference.constants and not value.is_graph_input()


def _reshape(inference: Inference, node: ir.Node) -> ShapeInput:
    data, target = node.inputs[0], inference.elements(node.inputs[1])
    made = inference.dims(node.outputs[0])
    source = None if data is None else inference.dims(data)
    if target is None:
        if made is None:
            return ShapeInput(1)
        target = [None] * len(made)
    allow_zero = bool(int_attribute(node, "allowzero", 0))
    has_zero = any(item == 0 and isinstance(item, int) for item in target)
    items: list[int] = []
    copied: list[Dim | None] = []
    for index, item in enumerate(target):
        here = source[index] if source is not None and index < len(source) else None
        dim: Dim | None = item
        if (dim is None or dim == -1) and made is not None and made[index] is not None:
            dim = made[index]  # also for the model's own -1: what is known need not be inferred
        if isinstance(dim, int) and (dim != 0 or item is not None):
            items.append(int(dim))
        elif dim is not None and here == dim and not (allow_zero and has_zero):
            items.append(0)
        else:
            items.append(-1)
        if items[-1] == 0:
            copied.append(here)
    if items.count(-1) > 1:
        return ShapeInput(1, reason="two dimensions of the new shape depend on the input's size")
    if -1 in items and allow_zero and has_zero:
        return ShapeInput(1, reason="allowzero with a zero in the shape rules out -1")
    # A -1 that the model has already failed wherever a copied size is 0, but for allowzero, with
    # which nothing is copied; a new one must not.
    is_new = any(
        item == -1 and (target[index] != -1 or allow_zero) for index, item in enumerate(items)
    )
    if is_new and not all(dim is not None and symbolic.is_at_least(dim, 1) for dim in copied):
        return ShapeInput(1, reason="a dimension to infer stands beside one that can be 0")
    return ShapeInput(1, tuple(items), copies_zero=allow_zero and not has_zero and bool(copied))


def _expand(inference: Inference, node: ir.Node) -> ShapeInput:
    data, target = node.inputs[0], inference.elements(node.inputs[1])
    source = None if data is None else inference.dims(data)
    if source is None or target is None:
        return ShapeInput(1)
    items: list[int] = []
    for index, item in enumerate(target):
        position = index - len(target) + len(source)
        dim: Dim = source[position] if position >= 0 else 1
        if isinstance(item, int):
            items.append(int(item))
        elif dim == item or (isinstance(dim, int) and dim != 1):
            items.append(1)
        else:
            return ShapeInput(1, reason="the new shape depends on the input's size")
    return ShapeInput(1, tuple(items))


def is_noop_expand(inference: Inference, node: ir.Node) -> bool:
    """True if an Expand provably gives the shape that it gets."""
    if node.domain or node.op_type != "Expand" or node.inputs[0] is None:
        return False
    source = inference.dims(node.inputs[0])
    return source is not None and source == inference.dims(node.outputs[0])


def _slice(inference: Inference, node: ir.Node) -> ShapeInput:
    data, ends = node.inputs[0], inference.elements(node.inputs[2])
    source = None if data is None else inference.dims(data)
    if source is None or ends is None:
        return ShapeInput(2)
    axes = inference.elements(node.inputs[3]) if len(node.inputs) > 3 else None
    if len(node.inputs) <= 3 or node.inputs[3] is None:
        axes = list(range(len(ends)))
    steps = inference.elements(node.inputs[4]) if len(node.inputs) > 4 else None
    if len(node.inputs) <= 4 or node.inputs[4] is None:
        steps = [1] * len(ends)
    if axes is None or steps is None:
        return ShapeInput(2)
    items: list[int] = []
    for end, axis, step in zip(ends, axes, steps, strict=True):
        if isinstance(end, int):
            items.append(int(end))
        elif end is None or not isinstance(axis, int) or not isinstance(step, int) or step < 1:
            return ShapeInput(2)
        elif symbolic.is_at_least(end, source[axis]):
            items.append(_END)
        else:
            return ShapeInput(2, reason="the end depends on the input's size")
    return ShapeInput(2, tuple(items))

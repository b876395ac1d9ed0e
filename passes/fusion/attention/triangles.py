"""Causal masks that are cut out of a constant triangle.

    Slice(tril[..., n, n], rows past : past + sequence, columns 0 : past + sequence)

Row i of the cut is row past + i of the triangle, which is True up to column past + i. The cut hides
what comes after and nothing else, so that beside another causal mask it has no effect.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.values import constant, constant_ints
from onnxopt.passes.cleanup.single_node import has_input, ints_parameter, producer_of
from onnxopt.passes.fusion.attention.scalars import scalar

_MOST_STEPS = 8
Size = int | str


def is_triangle(value: ir.Value | None, past: Size, sequence: Size) -> bool:
    """True if the boolean value is such a cut for so many tokens in the cache and new ones."""
    total = symbolic.add(past, sequence)
    cuts: dict[int, tuple[Size, Size]] = {}
    for _ in range(_MOST_STEPS):
        array = constant(value)
        if array is not None:
            if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
                return False
            triangle = np.tri(array.shape[-1], dtype=bool)
            if not np.array_equal(array != 0, np.broadcast_to(triangle, array.shape)):
                return False
            break
        node = producer_of(value, "Slice", "Cast", "Identity")
        if node is None:
            return False
        if node.op_type == "Slice" and not _cut(node, cuts):
            return False
        value = node.inputs[0]
    else:
        return False
    if total is None or set(cuts) != {-1, -2}:
        return False
    wanted = {-2: (past, total), -1: (0, total)}
    return all(
        symbolic.equal(size, other) is True
        for axis, pair in wanted.items()
        for size, other in zip(cuts[axis], pair, strict=True)
    )


def _cut(node: ir.Node, cuts: dict[int, tuple[Size, Size]]) -> bool:
    """Notes the start and end of a Slice with step 1 on one of the last two axes of four."""
    axes = ints_parameter(node, "axes", 3)
    if not axes or len(axes) != 1 or "starts" in node.attributes:
        return False
    if has_input(node, 4) and constant_ints(node.inputs[4]) != (1,):
        return False
    rank = None if node.inputs[0] is None else node.inputs[0].shape
    start, end = scalar(node.inputs[1]), scalar(node.inputs[2])
    if rank is None or start is None or end is None:
        return False
    axis = axes[0] % len(rank) - len(rank)
    if axis in cuts:
        return False
    cuts[axis] = (start, end)
    return True

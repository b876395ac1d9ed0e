"""Shape and data-movement operators that provably return their input.

    Reshape, Expand (x, s)            -> x    the output has the shape of x
    Tile(x, 1s), Pad(x, 0s)           -> x
    Slice(x, ...)                     -> x    every axis from end to end, step 1
    Gather(x, [0, 1, ..., n-1])       -> x    n is the size of the axis
    ScatterND(x, all positions, u)    -> u    everything is overwritten, in order
    Resize, Upsample (x, scales 1)    -> x
    Split(x) with one output          -> x
    Reduce{Sum,Mean,Max,Min,Prod}(x)  -> x    over axes of size 1, keepdims
    MaxPool, AveragePool (x)          -> x    kernel 1, stride 1, no padding
    DepthToSpace, SpaceToDepth (x, 1) -> x

Shapes may be symbolic: two dimensions are equal if both are the same integer or the same symbol.
A Reshape whose target is a constant is judged by that target; one that is computed at run time, by
the inferred shape of its output.

Refused: a MaxPool whose Indices are used; a Resize with a coordinate transformation that moves
pixels even at scale 1 (tf_crop_and_resize, tf_half_pixel_for_nn). Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import (
    broadcasts_into,
    constant,
    constant_ints,
    dims,
    int_attribute,
    ints_attribute,
    is_uniform,
    same_shape,
    size_at,
    static_dims,
)
from onnxopt.passes.cleanup.single_node import Source, bypass_rules, has_input, ints_parameter
from onnxopt.passes.cleanup.slices import TO_THE_END


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveNoOpShapes(RewritePass):
    """Removes Reshape, Expand, Slice, Pad, Resize and the like where they change nothing."""

    name: ClassVar[str] = "remove-no-op-shapes"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per op type."""
        return bypass_rules(_SOURCES)


def _reshape(node: ir.Node, version: int) -> ir.Value | None:
    x, y = node.inputs[0], node.outputs[0]
    target = ints_parameter(node, "shape", 1)
    if target is None:
        return x if same_shape(x, y) else None
    shape = dims(x)
    if shape is None or len(target) != len(shape):
        return None
    zero_copies = int_attribute(node, "allowzero", 0) == 0
    matching = [
        size == wanted or (wanted == 0 and zero_copies)
        for size, wanted in zip(shape, target, strict=True)
    ]
    # The one dimension that is left over follows from the number of elements, unless that is 0.
    free = [i for i, matches in enumerate(matching) if not matches]
    if not free:
        return x
    known = len(free) == 1 and target[free[0]] == -1 and 0 not in shape
    return x if known else None


def _expand(node: ir.Node, version: int) -> ir.Value | None:
    x = node.inputs[0]
    target = constant_ints(node.inputs[1])
    if target is not None and broadcasts_into(target, x):
        return x
    return x if same_shape(x, node.outputs[0]) else None


def _tile(node: ir.Node, version: int) -> ir.Value | None:
    ones = version >= 6 and is_uniform(node.inputs[1], 1)
    return node.inputs[0] if ones else None


def _slice(node: ir.Node, version: int) -> ir.Value | None:
    x = node.inputs[0]
    steps = ints_parameter(node, "steps", 4)
    if steps is None or any(step != 1 for step in steps):
        return None
    if same_shape(x, node.outputs[0]):
        return x
    starts, ends = ints_parameter(node, "starts", 1), ints_parameter(node, "ends", 2)
    axes = ints_parameter(node, "axes", 3)
    if starts is None or ends is None or axes is None:
        return None
    for axis, start, end in zip(axes or range(len(starts)), starts, ends, strict=True):
        size = size_at(x, axis)
        if isinstance(size, int):
            whole = (start == 0 or start <= -size) and end >= size
        else:
            whole = (start == 0 or start <= -TO_THE_END) and end >= TO_THE_END
        if not whole:
            return None
    return x


def _pad(node: ir.Node, version: int) -> ir.Value | None:
    name = "pads" if version >= 2 else "paddings"
    pads = ints_parameter(node, name, 1)
    return node.inputs[0] if pads is not None and not any(pads) else None


def _gather(node: ir.Node, version: int) -> ir.Value | None:
    x, positions = node.inputs[0], constant(node.inputs[1])
    if positions is None or positions.ndim != 1:
        return None
    size = size_at(x, int_attribute(node, "axis", 0))
    in_order = positions.size == size and np.array_equal(positions, np.arange(positions.size))
    return x if in_order else None


def _scatter_nd(node: ir.Node, version: int) -> ir.Value | None:
    data, indices, updates = node.inputs
    shape, positions = static_dims(data), constant(indices)
    if shape is None or positions is None or not same_shape(data, updates):
        return None
    reduction = node.attributes.get("reduction")
    if reduction is not None and reduction.as_string() != "none":
        return None
    depth = positions.shape[-1] if positions.ndim else 0
    if depth == 0 or positions.shape[:-1] != shape[:depth]:
        return None
    grid = np.moveaxis(np.indices(shape[:depth]), 0, -1)
    return updates if np.array_equal(grid, positions) else None


def _resize(node: ir.Node, version: int) -> ir.Value | str | None:
    x = node.inputs[0]
    scales = node.inputs[1 if version < 11 or node.op_type == "Upsample" else 2 :][:1]
    if "scales" in node.attributes:
        unchanged = all(scale == 1 for scale in node.attributes["scales"].as_floats())
    elif has_input(node, 3):
        policy = node.attributes.get("keep_aspect_ratio_policy")
        stretched = policy is None or policy.as_string() == "stretch"
        unchanged = stretched and same_shape(x, node.outputs[0])
    else:
        unchanged = bool(scales) and is_uniform(scales[0], 1)
    if not unchanged:
        return None
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() in ("tf_crop_and_resize", "tf_half_pixel_for_nn"):
        return f"{mode.as_string()} moves pixels even at scale 1"
    return x


def _split(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _reduce(node: ir.Node, version: int) -> ir.Value | None:
    x, shape = node.inputs[0], dims(node.inputs[0])
    axes = ints_parameter(node, "axes", 1)
    if axes is None or int_attribute(node, "keepdims", 1) == 0:
        return None
    if not axes and int_attribute(node, "noop_with_empty_axes", 0) == 1:
        return x
    if shape is None:
        return None
    reduced = [size_at(x, axis) for axis in axes] if axes else list(shape)
    return x if all(size == 1 for size in reduced) else None


def _pool(node: ir.Node, version: int) -> ir.Value | str | None:
    kernel, strides = ints_attribute(node, "kernel_shape"), ints_attribute(node, "strides")
    pads = ints_attribute(node, "pads")
    if kernel is None or any(size != 1 for size in (*kernel, *(strides or ()))):
        return None
    if pads is not None and any(pads):
        return None
    if any(indices.uses() or indices.is_graph_output() for indices in node.outputs[1:]):
        return "the Indices of the MaxPool are used"
    return node.inputs[0]


def _block(node: ir.Node, version: int) -> ir.Value | None:
    return node.inputs[0] if int_attribute(node, "blocksize", 0) == 1 else None


_SOURCES: dict[str, Source] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "ScatterND": _scatter_nd,
    "Resize": _resize,
    "Upsample": _resize,
    "Split": _split,
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
        _reduce,
    ),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _block),
}

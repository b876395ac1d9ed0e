"""Operators that reduce, move and select, in PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxopt.recovering.node import (
    Inputs,
    Node,
    Operator,
    UnsupportedFormError,
    need,
    optional,
)

# By the number of ONNX's TensorProto.DataType.
_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def reshape(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """0 copies a size unless `allowzero` is set."""
    x = need(inputs, 0)
    shape = node.ints(inputs, "shape", 1) or []
    if not node.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return (x.reshape(shape),)


def flatten(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """To two axes."""
    x = need(inputs, 0)
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return (x.reshape(rows, -1),)


def transpose(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Reversed by default."""
    x = need(inputs, 0)
    return (x.permute(node.get("perm") or list(reversed(range(x.dim())))),)


def squeeze(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Axes of size 1 go."""
    x = need(inputs, 0)
    axes = node.ints(inputs, "axes", 1)
    if axes is None:
        return (x.squeeze(),)
    return (x.squeeze([axis % x.dim() for axis in axes]),)


def unsqueeze(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Axes of size 1 come."""
    x = need(inputs, 0)
    axes = node.ints(inputs, "axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return (x,)


def split(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Into given sizes, or equal ones."""
    x, axis = need(inputs, 0), node.get("axis", 0)
    sizes: list[int] | int | None = node.ints(inputs, "split", 1)
    if sizes is None:
        sizes = -(-x.shape[axis] // node.outputs)
    parts: Sequence[Tensor] = torch.split(x, sizes, dim=axis)
    return parts


def slices(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Any steps, negative ones included."""
    x = need(inputs, 0)
    starts, ends = node.ints(inputs, "starts", 1) or [], node.ints(inputs, "ends", 2) or []
    axes = node.ints(inputs, "axes", 3) or list(range(len(starts)))
    steps = node.ints(inputs, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return (x,)


def gather(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Rows by index."""
    x, indices = need(inputs, 0), need(inputs, 1).long()
    axis = node.get("axis", 0) % x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return (picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]),)


def expand(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Broadcasts both ways."""
    x, shape = need(inputs, 0), [int(size) for size in need(inputs, 1).tolist()]
    return (x.expand(torch.broadcast_shapes(x.shape, shape)),)


def pad(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Constant, edge and reflect; an optional input gives the axes."""
    x = need(inputs, 0)
    given, axes = node.ints(inputs, "pads", 1) or [], node.ints(inputs, "axes", 3)
    axes = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    pads = {axis: (given[i], given[i + len(axes)]) for i, axis in enumerate(axes)}
    flat = [size for axis in reversed(range(x.dim())) for size in pads.get(axis, (0, 0))]
    mode = node.get("mode", "constant")
    if mode == "constant":
        value = optional(inputs, 2)
        number = float(node.get("value", 0.0) if value is None else value)
        return (functional.pad(x, flat, value=number),)
    while len(flat) >= 2 and flat[-2:] == [0, 0] and len(flat) // 2 > x.dim() - 2:
        flat = flat[:-2]
    if mode not in ("reflect", "edge") or len(flat) // 2 > x.dim() - 1:
        raise UnsupportedFormError(f"mode {mode} over these axes")
    return (functional.pad(x, flat, mode="reflect" if mode == "reflect" else "replicate"),)


def reduction(function: Callable[..., Any]) -> Operator:
    """A reduction over axes that are an attribute or an input."""

    def operator(node: Node, inputs: Inputs) -> Sequence[Tensor]:
        x = need(inputs, 0)
        axes = node.ints(inputs, "axes", 1)
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return (x,)
            axes = list(range(x.dim()))
        return (function(x, axes, keepdim=bool(node.get("keepdims", 1))),)

    return operator


def global_pool(function: Callable[..., Any]) -> Operator:
    """Over all axes but batch and channels."""

    def operator(node: Node, inputs: Inputs) -> Sequence[Tensor]:
        x = need(inputs, 0)
        return (function(x, list(range(2, x.dim())), keepdim=True),)

    return operator


def resize(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Nearest and linear by whole factors, as exporters write an upsampling."""
    x = need(inputs, 0)
    scales, sizes = optional(inputs, 2), optional(inputs, 3)
    if sizes is not None:
        target = [int(size) for size in sizes.tolist()][2:]
    elif scales is not None and scales.numel():
        factors = scales.tolist()[2:]
        target = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
    else:
        raise UnsupportedFormError("neither scales nor sizes")
    mode, way = node.get("mode", "nearest"), node.get("coordinate_transformation_mode")
    whole = all(t % n == 0 for t, n in zip(target, x.shape[2:], strict=True))
    if node.get("axes") or (mode == "nearest" and not whole):
        raise UnsupportedFormError("factors that are not whole numbers")
    if mode == "nearest":
        return (functional.interpolate(x, target, mode="nearest"),)
    if mode != "linear" or x.dim() != 4 or way not in (None, "half_pixel", "align_corners"):
        raise UnsupportedFormError(f"mode {mode}, coordinates {way}")
    return (
        functional.interpolate(x, target, mode="bilinear", align_corners=way == "align_corners"),
    )


def shape(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Sizes, or some of them."""
    sizes = list(need(inputs, 0).shape)
    return (torch.tensor(sizes[node.get("start", 0) : node.get("end")], dtype=torch.int64),)


def constant(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """A tensor or numbers that an attribute holds."""
    ((name, value),) = node.attributes.items()
    if name == "value":
        return (torch.from_numpy(value.numpy().copy()),)
    if name in ("value_float", "value_floats"):
        return (torch.tensor(value, dtype=torch.float32),)
    if name in ("value_int", "value_ints"):
        return (torch.tensor(value, dtype=torch.int64),)
    raise UnsupportedFormError(f"attribute {name}")


def constant_of_shape(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Zeros by default."""
    value = node.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(value.numpy().copy())
    sizes = [int(size) for size in need(inputs, 0).tolist()]
    return (fill.reshape(()).expand(sizes),)


def cast(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """To a type that PyTorch has."""
    kind = _TYPES.get(int(node.attributes["to"]))
    if kind is None:
        raise UnsupportedFormError(f"type {node.attributes['to']}")
    return (need(inputs, 0).to(kind),)


def argmax(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """The first of equal ones."""
    x = need(inputs, 0)
    found = x.argmax(node.get("axis", 0), keepdim=bool(node.get("keepdims", 1)))
    return (found,)


def cumsum(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Inclusive and forwards."""
    if node.get("exclusive", 0) or node.get("reverse", 0):
        raise UnsupportedFormError("exclusive or reverse")
    return (need(inputs, 0).cumsum(int(need(inputs, 1))),)


def trilu(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """The upper or the lower triangle."""
    diagonal = optional(inputs, 1)
    function = torch.triu if node.get("upper", 1) else torch.tril
    return (function(need(inputs, 0), 0 if diagonal is None else int(diagonal)),)


def concat(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Along an axis."""
    return (torch.cat([x for x in inputs if x is not None], dim=node.attributes["axis"]),)


def einsum(node: Node, inputs: Inputs) -> Sequence[Tensor]:
    """Any equation."""
    operands = list(itertools.takewhile(lambda x: x is not None, inputs))
    return (torch.einsum(node.attributes["equation"].replace(" ", ""), *operands),)


MOVING: dict[str, Operator] = {
    "ArgMax": argmax,
    "Cast": cast,
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "CumSum": cumsum,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GlobalAveragePool": global_pool(torch.mean),
    "GlobalMaxPool": global_pool(torch.amax),
    "Pad": pad,
    "Range": lambda node, inputs: (
        torch.arange(*(need(inputs, place).item() for place in range(3))),
    ),
    "ReduceL2": reduction(lambda x, axes, keepdim: x.square().sum(axes, keepdim).sqrt()),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceMin": reduction(torch.amin),
    "ReduceSum": reduction(torch.sum),
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Slice": slices,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": lambda node, inputs: (need(inputs, 0).repeat(*need(inputs, 1).tolist()),),
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
    "Where": lambda node, inputs: (torch.where(need(inputs, 0), need(inputs, 1), need(inputs, 2)),),
}

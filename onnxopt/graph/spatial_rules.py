"""Output shapes of Slice, Pad, Resize, convolutions and pooling with symbolic sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph import symbolic
from onnxopt.graph.shape_rules import Dims, Elements, Rule, RuleInputs
from onnxopt.graph.symbolic import Dim, Symbols
from onnxopt.graph.values import int_attribute, ints_attribute

_INT32_MAX = 2**31 - 1


def slice_dims(inputs: RuleInputs) -> list[Dims] | None:
    """Slice; ends beyond the dimension and negative ones count from its end."""
    data = inputs.dims(0)
    if data is None:
        return None
    starts, ends, axes, steps = _slice_parameters(inputs, len(data))
    dims: list[Dim | None] = list(data)
    if axes is None:
        return [tuple(inputs.symbols.fresh() for _ in data)]
    for i, axis in enumerate(axes):
        if not isinstance(axis, int) or not -len(data) <= axis < len(data):
            return [tuple(inputs.symbols.fresh() for _ in data)]
        start = starts[i] if starts is not None and i < len(starts) else None
        end = ends[i] if ends is not None and i < len(ends) else None
        step = 1 if steps is None else steps[i]
        size = data[axis]
        length = _sliced(size, start, end, step)
        if length is None and None not in (start, end, step):
            length = inputs.symbols.keyed(("slice", size, start, end, step))
        dims[axis] = length
    return [tuple(inputs.named(dim) for dim in dims)]


def _slice_parameters(
    inputs: RuleInputs, rank: int
) -> tuple[Elements | None, Elements | None, Elements | None, Elements | None]:
    if inputs.opset < 10:
        starts = ints_attribute(inputs.node, "starts")
        axes = ints_attribute(inputs.node, "axes")
        if axes is None:
            axes = None if starts is None else tuple(range(len(starts)))
        return starts, ints_attribute(inputs.node, "ends"), axes, None
    steps = inputs.elements(4) if inputs.has(4) else None
    if inputs.has(4) and steps is None:
        steps = [None] * rank
    axes_known = inputs.elements(3) if inputs.has(3) else None
    if not inputs.has(3):
        count = inputs.length(1)
        axes_known = None if count is None else tuple(range(count))
    return inputs.elements(1), inputs.elements(2), axes_known, steps


def _sliced(
    size: Dim, start: Dim | bool | None, end: Dim | bool | None, step: Dim | bool | None
) -> Dim | None:
    if start is None or end is None or not isinstance(step, int) or step == 0:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, end, step).indices(size)))
    if step != 1:
        return None
    first = _from_start(start, size)
    last = _from_start(end, size)
    if first is None or last is None:
        return None
    # A start beyond the end leaves nothing, so only the end has to be clipped to the size.
    stop = symbolic.smaller(last, size)
    length = None if stop is None else symbolic.sub(stop, first)
    return None if length is None else symbolic.larger(length, 0)


def _from_start(index: Dim, size: Dim) -> Dim | None:
    """A start or an end as a distance >= 0 from the first element, if its sign is known."""
    if isinstance(index, int) and index >= _INT32_MAX:
        return size
    if isinstance(index, int) and index < 0:
        shifted = symbolic.add(size, index)
        return None if shifted is None else symbolic.larger(shifted, 0)
    return index if symbolic.is_at_least(index, 0) else None


def pad_dims(inputs: RuleInputs) -> list[Dims] | None:
    """Pad by known amounts of known axes."""
    data = inputs.dims(0)
    if data is None:
        return None
    pads: Elements | None = ints_attribute(inputs.node, "pads") or ints_attribute(
        inputs.node, "paddings"
    )
    if inputs.opset >= 11:
        pads = inputs.elements(1)
    axes: Sequence[Dim | bool | None] | None = range(len(data))
    if inputs.has(3):
        axes = inputs.elements(3)
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return [tuple(inputs.symbols.fresh() for _ in data)]
    dims: list[Dim | None] = list(data)
    for i, axis in enumerate(axes):
        if not isinstance(axis, int) or not -len(data) <= axis < len(data):
            return [tuple(inputs.symbols.fresh() for _ in data)]
        begin, end, size = pads[i], pads[i + len(axes)], data[axis]
        padding = None if begin is None or end is None else symbolic.add(begin, end)
        dims[axis] = None if padding is None else symbolic.add(size, padding)
    return [tuple(inputs.named(dim) for dim in dims)]


def resize_dims(inputs: RuleInputs) -> list[Dims] | None:
    """Resize and Upsample to sizes that are partly known, or by scales of one."""
    data = inputs.dims(0)
    if data is None or inputs.node.attributes.get("axes") is not None:
        return None
    if inputs.has(3):
        sizes = inputs.elements(3)
        if sizes is None or len(sizes) != len(data):
            return [tuple(inputs.symbols.fresh() for _ in data)]
        policy = inputs.node.attributes.get("keep_aspect_ratio_policy")
        if policy is not None and policy.value != "stretch":
            return None
        return [tuple(inputs.named(size) for size in sizes)]
    return None


def windowed_dims(inputs: RuleInputs) -> list[Dims] | None:
    """Conv and pooling with a symbolic spatial size; integers are left to onnx's inference.

    The size depends on the input's size, the stride and one constant. Equal triples get the same
    symbol, so that a convolution and a pooling of the same geometry agree.
    """
    data, node = inputs.dims(0), inputs.node
    if data is None or len(data) < 3 or all(isinstance(dim, int) for dim in data[2:]):
        return None
    spatial = len(data) - 2
    kernel: tuple[Dim, ...] | None = ints_attribute(node, "kernel_shape")
    channels: Dim = data[1]
    if node.op_type == "Conv":
        weight = inputs.dims(1)
        if weight is None or len(weight) != len(data):
            return None
        channels, kernel = weight[0], kernel or weight[2:]
    if kernel is None or len(kernel) != spatial:
        return None
    sizes = window_sizes(node, data[2:], kernel, inputs.symbols)
    return None if sizes is None else [(data[0], channels, *sizes)]


def window_sizes(
    node: ir.Node, sizes: Sequence[Dim], kernel: Sequence[Dim], symbols: Symbols
) -> list[Dim] | None:
    """How often a window fits along each spatial axis; None if its size is not known.

    Args:
        node: Has the attributes of Conv and pooling.
        sizes: Sizes of the spatial axes.
        kernel: Sizes of the window.
        symbols: Where symbols for sizes come from.
    """
    spatial = len(sizes)
    strides = ints_attribute(node, "strides") or (1,) * spatial
    dilations = ints_attribute(node, "dilations") or (1,) * spatial
    pads = ints_attribute(node, "pads") or (0,) * (2 * spatial)
    auto_pad = node.attributes.get("auto_pad")
    mode = "NOTSET" if auto_pad is None else str(auto_pad.value)
    ceil_mode = int_attribute(node, "ceil_mode", 0)
    if len(strides) != spatial or len(dilations) != spatial or len(pads) != 2 * spatial:
        return None
    if min(strides, default=1) < 1:
        return None
    found: list[Dim] = []
    for i, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        if not isinstance(width, int):
            return None
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            slack = strides[i] - 1
        else:
            padding = pads[i] + pads[i + spatial] if mode == "NOTSET" else 0
            slack = padding - dilations[i] * (width - 1) - 1
            slack += 0 if ceil_mode and mode == "NOTSET" else strides[i]
        if ceil_mode and mode == "NOTSET":
            # A window that would start in the padding is dropped, which no short formula says.
            found.append(
                symbols.keyed(("ceil", size, slack, strides[i], pads[i]))
                if isinstance(size, str)
                else _ceil_size(size, slack, strides[i], pads[i], pads[i + spatial])
            )
        else:
            found.append(_strided(symbols, size, slack, strides[i]))
    return found


def _strided(symbols: Symbols, size: Dim, slack: int, stride: int) -> Dim:
    """floor((size + slack) / stride)."""
    if isinstance(size, int):
        return max((size + slack) // stride, 0)
    if stride == 1:
        moved = symbolic.add(size, slack)
        if moved is not None:
            return moved
    return symbols.keyed(("strided", size, slack, stride))


def _ceil_size(size: int, slack: int, stride: int, before: int, after: int) -> int:
    steps = math.ceil((size + slack) / stride) + 1
    return steps - 1 if (steps - 1) * stride >= size + before else steps


SPATIAL_RULES: dict[str, Rule] = {
    "Pad": pad_dims,
    "Slice": slice_dims,
    "Resize": resize_dims,
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), windowed_dims),
}

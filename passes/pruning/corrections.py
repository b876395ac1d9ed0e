"""Numbers in nodes that spell out a width: corrected for the positions that go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxopt.graph.axes.selecting import slice_bounds
from onnxopt.graph.axes.targets import adjust
from onnxopt.graph.values import int_attribute, ints_attribute
from onnxopt.passes.pruning.removing import Removal

Correction = Callable[[Removal, ir.Node], None]


def _target(removal: Removal, node: ir.Node) -> None:
    """Entries of the target shape of Reshape and Expand."""
    changed = removal.changed(node.outputs[0])
    target = node.inputs[1] if len(node.inputs) > 1 else None
    if changed and target is not None:
        entries = {axis: int(kept.sum()) for axis, kept in changed.items()}
        constant = removal.groups.builder.constant_ints
        node.replace_input_with(1, adjust(constant, target, entries, node, removal.names))


def _scaled(*names: str, source: int, axis: int) -> Correction:
    """Attributes that count blocks of an axis of an input, as `group` and `num_heads`."""

    def correct(removal: Removal, node: ir.Node) -> None:
        value = node.inputs[source] if source < len(node.inputs) else None
        ratio = removal.ratio(value, axis)
        for name in names:
            count = int_attribute(node, name, 0)
            if ratio is not None and count > 0:
                node.attributes[name] = ir.AttrInt64(name, count * ratio[0] // ratio[1])

    return correct


def _conv(removal: Removal, node: ir.Node) -> None:
    """The number of groups, where whole groups go: of ConvTranspose nothing else can."""
    channels, within = removal.ratio(node.inputs[0], 1), None
    if node.op_type == "Conv":
        within = removal.ratio(node.inputs[1], 1)
    group = int_attribute(node, "group", 1)
    if group > 1 and channels is not None and within is None:
        node.attributes["group"] = ir.AttrInt64("group", group * channels[0] // channels[1])


def _split(removal: Removal, node: ir.Node) -> None:
    """The sizes of the parts, which are written out where they become unequal."""
    builder = removal.groups.builder
    axis = int_attribute(node, "axis", 0)
    source = node.inputs[0]
    assert source is not None
    axis %= builder.rank(source)
    if removal.kept(source, axis) is None:
        return
    sizes = []
    for output in node.outputs:
        kept, size = removal.kept(output, axis), builder.dims(output)[axis]
        assert isinstance(size, int)
        sizes.append(size if kept is None else int(kept.sum()))
    if builder.inference.opset < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
        return
    node.attributes.pop("num_outputs", None)
    _give(removal, node, 1, sizes)


def _slice(removal: Removal, node: ir.Node) -> None:
    """Bounds become those of the positions that are left of the slice."""
    source = node.inputs[0]
    assert source is not None
    builder = removal.groups.builder
    rank = builder.rank(source)
    bounds = slice_bounds(builder, node, rank)
    if bounds is None:
        return
    changed = removal.changed(source)
    if not changed.keys() & bounds.keys():
        return
    for axis in changed.keys() & bounds.keys():
        start, end, step = bounds[axis]
        positions = np.arange(len(changed[axis]))[start:end]
        first = int(changed[axis][: positions[0]].sum())
        bounds[axis] = (first, first + int(changed[axis][positions].sum()), step)
    axes = list(bounds)
    starts, ends = [bounds[a][0] for a in axes], [bounds[a][1] for a in axes]
    if "starts" in node.attributes:
        for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes)):
            node.attributes[name] = ir.AttrInt64s(name, numbers)
        return
    steps = [bounds[a][2] for a in axes]
    for place, numbers in enumerate((starts, ends, axes, steps), start=1):
        _give(removal, node, place, numbers)


def _gather(removal: Removal, node: ir.Node) -> None:
    """Constant indices: those of positions that go are dropped, the others renumbered."""
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None
    builder = removal.groups.builder
    axis = int_attribute(node, "axis", 0) % builder.rank(data)
    kept = removal.kept(data, axis)
    picked = builder.constant_ints(indices)
    if kept is None or picked is None or indices is None:
        return
    positions = np.asarray(picked, np.int64) % len(kept)
    renumbered = (np.cumsum(kept) - 1)[positions[kept[positions]]]
    shape = builder.dims(indices) if len(builder.dims(indices)) != 1 else None
    _give(removal, node, 1, [int(i) for i in renumbered], scalar=shape == ())


def _resize(removal: Removal, node: ir.Node) -> None:
    """Entries of the target sizes."""
    changed = removal.changed(node.outputs[0])
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    numbers = removal.groups.builder.constant_ints(sizes)
    if not changed or numbers is None:
        return
    axes = ints_attribute(node, "axes") or tuple(range(len(numbers)))
    for place, axis in enumerate(axes):
        if axis in changed:
            numbers[place] = int(changed[axis].sum())
    _give(removal, node, 3, numbers)


def _attention(removal: Removal, node: ir.Node) -> None:
    """Heads, and widths where they are spelled out."""
    heads, ratio = int_attribute(node, "num_heads", 1), removal.ratio(node.outputs[0], 2)
    if ratio is None:
        return
    node.attributes["num_heads"] = ir.AttrInt64("num_heads", heads * ratio[0] // ratio[1])
    sizes = ints_attribute(node, "qkv_hidden_sizes")
    if sizes is not None:
        scaled = [size * ratio[0] // ratio[1] for size in sizes]
        node.attributes["qkv_hidden_sizes"] = ir.AttrInt64s("qkv_hidden_sizes", scaled)


def _give(
    removal: Removal, node: ir.Node, place: int, numbers: list[int], *, scalar: bool = False
) -> None:
    """Gives a node a constant of its own as an input."""
    name = removal.names.unique(f"{node.outputs[0].name}_{place}")
    array = np.array(numbers[0] if scalar else numbers, np.int64)
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=tensor.shape, const_value=tensor
    )
    assert node.graph is not None
    node.graph.register_initializer(value)
    if place >= len(node.inputs):
        node.resize_inputs(place + 1)
    node.replace_input_with(place, value)


CORRECTIONS: dict[str, Correction] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Expand": _target,
    "GRU": _scaled("hidden_size", source=2, axis=2),
    "Gather": _gather,
    "GroupNormalization": _scaled("num_groups", source=0, axis=1),
    "GroupQueryAttention": _scaled("num_heads", "kv_num_heads", source=0, axis=2),
    "LSTM": _scaled("hidden_size", source=2, axis=2),
    "MultiHeadAttention": _scaled("num_heads", source=0, axis=2),
    "RNN": _scaled("hidden_size", source=2, axis=2),
    "Reshape": _target,
    "Resize": _resize,
    "RotaryEmbedding": _scaled("num_heads", source=0, axis=2),
    "Slice": _slice,
    "Split": _split,
}

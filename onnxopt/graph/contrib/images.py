"""Convolution, pooling and resampling, with channels first or last."""

from __future__ import annotations

from onnxopt.graph.contrib.rules import FactRule, fact_of, named, shape_of
from onnxopt.graph.facts import Fact
from onnxopt.graph.shape_rules import Dims, RuleInputs
from onnxopt.graph.spatial_rules import window_sizes
from onnxopt.graph.symbolic import Dim
from onnxopt.graph.values import int_attribute, ints_attribute


def _windowed(*, weight: int | None, channels_last: bool | None = False, like: int = 0) -> FactRule:
    """A window that moves over the spatial axes.

    Args:
        weight: The input with a weight; None for pooling, whose window is an attribute.
        channels_last: None if an attribute says so.
        like: The input with the type of the output.
    """

    def rule(inputs: RuleInputs) -> list[Fact]:
        node, dtype = inputs.node, fact_of(inputs, like).dtype
        last = channels_last
        if last is None:
            last = bool(int_attribute(node, "channels_last", 0))
        return [Fact(dtype, _moved(inputs, weight, last))]

    return rule


def _moved(inputs: RuleInputs, weight: int | None, last: bool) -> Dims | None:
    data, node = inputs.dims(0), inputs.node
    if data is None or len(data) < 3:
        return None
    kernel: tuple[Dim, ...] | None = ints_attribute(node, "kernel_shape")
    channels = data[-1] if last else data[1]
    if weight is not None:
        filters = shape_of(inputs, weight, len(data))
        if filters is None:
            return None
        channels = filters[0]
        kernel = kernel or filters[2:]  # [output, input, height, width] in either layout
    sizes = data[1:-1] if last else data[2:]
    if kernel is None or len(kernel) != len(sizes):
        return None
    moved = window_sizes(node, sizes, kernel, inputs.symbols)
    if moved is None:
        return None
    return (data[0], *moved, channels) if last else (data[0], channels, *moved)


def _global_pool(inputs: RuleInputs) -> list[Fact]:
    data = fact_of(inputs, 0)
    if data.dims is None or len(data.dims) < 3:
        return [Fact(data.dtype, None)]
    ones: tuple[Dim, ...] = (1,) * (len(data.dims) - 2)
    if int_attribute(inputs.node, "channels_last", 0):
        return [Fact(data.dtype, (data.dims[0], *ones, data.dims[-1]))]
    return [Fact(data.dtype, (*data.dims[:2], *ones))]


def _crop_and_resize(inputs: RuleInputs) -> list[Fact]:
    """One crop `[channels, height, width]` for each region."""
    data, regions = shape_of(inputs, 0, 4), shape_of(inputs, 1, 2)
    size = inputs.elements(3)
    height, width = size if size is not None and len(size) == 2 else (None, None)
    count = None if regions is None else regions[0]
    channels = None if data is None else data[1]
    dims = named(inputs, (count, channels, height, width))
    return [Fact(fact_of(inputs, 0).dtype, dims)]


def _grid_sample(inputs: RuleInputs) -> list[Fact]:
    data, grid = shape_of(inputs, 0, 4), shape_of(inputs, 1, 4)
    known = data is not None and grid is not None
    dims = (*data[:2], *grid[1:3]) if known and data is not None and grid is not None else None
    return [Fact(fact_of(inputs, 0).dtype, dims)]


def _ranked(inputs: RuleInputs) -> list[Fact]:
    """Sizes that depend on values; batch and rank are those of the input."""
    data = fact_of(inputs, 0)
    if not data.dims:
        return [Fact(data.dtype, None)]
    return [Fact(data.dtype, named(inputs, (data.dims[0], *[None] * (len(data.dims) - 1))))]


IMAGE_RULES: dict[str, FactRule] = {
    "ConvTransposeWithDynamicPads": _ranked,
    "CropAndResize": _crop_and_resize,
    "FusedConv": _windowed(weight=1),
    "GridSample": _grid_sample,
    "MaxpoolWithMask": _windowed(weight=None),
    "NhwcConv": _windowed(weight=1, channels_last=True),
    "NhwcFusedConv": _windowed(weight=1, channels_last=True),
    "NhwcMaxPool": _windowed(weight=None, channels_last=True),
    "QLinearAveragePool": _windowed(weight=None, channels_last=None),
    "QLinearConv": _windowed(weight=3, channels_last=None, like=7),
    "QLinearGlobalAveragePool": _global_pool,
}

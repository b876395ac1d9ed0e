"""Conv, Gemm and MatMul by a constant as what they all are: rows of numbers times a matrix.

    y = x W          x: [groups, rows, K], W: [groups, K, N]

A row of a Conv is a patch: the K = channels/group * kernel numbers under its kernel at one place.
What is worked out on rows (rounding, ranges, scales) then holds for all three.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from onnxopt.graph.quantization import is_finite
from onnxopt.graph.values import constant, int_attribute, ints_attribute

Float32 = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Product:
    """A node that multiplies activations with a constant weight.

    Attributes:
        node: The node.
        shape: Of the weight, as stored.
        groups: Of a Conv; 1 otherwise.
        transposed: The weight is stored as [N, K], as a Conv's and that of Gemm with transB are.
    """

    node: ir.Node
    shape: tuple[int, ...]
    groups: int
    transposed: bool

    @property
    def length(self) -> int:
        """K: how many products are summed."""
        return math.prod(self.shape[1:]) if self.transposed else self.shape[0]

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.groups * (self.shape[1] if self.transposed else self.shape[0])

    @property
    def outputs(self) -> int:
        """Output channels of all groups."""
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def channel_axis(self) -> int:
        """Axis of the stored weight that counts output channels."""
        return 0 if self.transposed else 1

    @property
    def data(self) -> ir.Value:
        """The activations."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def weight(self) -> ir.Value:
        """The weight."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    def matrices(self, array: NDArray[np.float32] | None = None) -> Float32:
        """A weight, by default the node's own, as [groups, K, N]."""
        if array is None:
            array = constant(self.weight)
            assert array is not None
        flat = array.reshape(self.shape[0], -1)
        flat = flat if self.transposed else flat.T
        return flat.reshape(self.groups, -1, flat.shape[1]).transpose(0, 2, 1)

    def stored(self, matrices: NDArray[np.generic]) -> NDArray[np.generic]:
        """The opposite of `matrices`."""
        flat = matrices.transpose(0, 2, 1).reshape(self.outputs, -1)
        flat = flat if self.transposed else flat.T
        return np.ascontiguousarray(flat).reshape(self.shape)

    def rows(self, array: Float32, most: int, rng: np.random.Generator) -> Float32:
        """Rows of activations, [groups, rows, K], drawn if there are more than `most`."""
        if self.node.op_type != "Conv":
            flat = array.reshape(-1, array.shape[-1])
            return flat[_drawn(len(flat), most, rng)][None]
        patches = self._patches(array)
        axes = len(self.shape) - 2
        places = (patches.shape[0], *patches.shape[2 : 2 + axes])
        chosen = np.unravel_index(_drawn(math.prod(places), most, rng), places)
        channels_last = np.moveaxis(patches, 1, 1 + axes)
        picked = channels_last[chosen]  # [rows, channels, *kernel]
        return picked.reshape(len(picked), self.groups, -1).transpose(1, 0, 2)

    def _patches(self, array: Float32) -> Float32:
        """A view [batch, channels, *places, *kernel]."""
        axes = len(self.shape) - 2
        kernel = self.shape[2:]
        strides = ints_attribute(self.node, "strides") or (1,) * axes
        dilations = ints_attribute(self.node, "dilations") or (1,) * axes
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = self._pads(array.shape[2:], strides, reach)
        array = np.pad(array, [(0, 0), (0, 0), *pads])
        windows = sliding_window_view(array, reach, axis=tuple(range(2, 2 + axes)))
        steps = [slice(None), slice(None)]
        steps += [slice(None, None, step) for step in (*strides, *dilations)]
        return windows[tuple(steps)]

    def _pads(
        self, sizes: tuple[int, ...], strides: tuple[int, ...], reach: list[int]
    ) -> list[tuple[int, int]]:
        attribute = self.node.attributes.get("auto_pad")
        mode = "NOTSET" if attribute is None else attribute.as_string()
        if mode.startswith("SAME"):
            found = []
            for size, stride, extent in zip(sizes, strides, reach, strict=True):
                total = max(0, (-(-size // stride) - 1) * stride + extent - size)
                small = total // 2
                ends = (small, total - small)
                found.append(ends if mode == "SAME_UPPER" else ends[::-1])
            return found
        pads = ints_attribute(self.node, "pads") if mode == "NOTSET" else None
        if pads is None:
            return [(0, 0)] * len(sizes)
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))


def product_of(node: ir.Node) -> Product | None:
    """The node as a product with a constant, finite float32 weight; None if it is none."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or not weight.size or not is_finite(weight):
        return None
    if node.op_type == "Conv":
        if weight.ndim < 3:
            return None
        return Product(node, weight.shape, int_attribute(node, "group", 1), True)
    scaled = any(
        name in node.attributes and node.attributes[name].as_float() != 1.0
        for name in ("alpha", "beta")
    )
    if weight.ndim != 2 or scaled or int_attribute(node, "transA", 0):
        return None
    return Product(node, weight.shape, 1, bool(int_attribute(node, "transB", 0)))


def _drawn(count: int, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indexes in order, at most so many."""
    if count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))

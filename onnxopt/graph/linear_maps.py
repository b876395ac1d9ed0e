"""Nodes that multiply an activation with a weight, seen as matrices, whatever their layout.

    MatMul x w[k, n]                    one matrix [k, n]
    Gemm x w[n, k] (transB)             one matrix [k, n]
    Conv x w[n, k / group, 3, 3]        `group` matrices [k / group * 9, n / group]

Rows of the activation that go with them are those of MatMul, and patches of Conv (im2col), of which
only some are taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import int_attribute, ints_attribute

Floats = NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """A Conv, Gemm or MatMul with a weight of its own.

    Attributes:
        node: The node.
        source: The activation that it reads.
        weight: The initializer.
        bias: The initializer that is added, by the node or right behind it; None without one.
    """

    node: ir.Node
    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        """What the node computes; the bias of a MatMul is added behind it."""
        return self.node.outputs[0]

    @property
    def is_conv(self) -> bool:
        """True for Conv, whose channels are axis 1."""
        return self.node.op_type == "Conv"

    @property
    def adds_bias(self) -> bool:
        """True if the node itself adds the bias, or can."""
        return self.node.op_type != "MatMul"

    @property
    def group(self) -> int:
        """Number of matrices."""
        return int_attribute(self.node, "group", 1)

    @property
    def output_axis(self) -> int:
        """The axis of the output that holds the columns of the matrices."""
        return 1 if self.is_conv else -1

    @property
    def input_axis(self) -> int:
        """The axis of the weight that is summed over."""
        if self.is_conv:
            return 1
        return int_attribute(self.node, "transB", 0)

    @property
    def inputs(self) -> int:
        """Rows of a matrix."""
        assert self.weight.const_value is not None
        shape = self.weight.const_value.shape.numpy()
        return math.prod(shape[1:]) if self.is_conv else int(shape[self.input_axis])

    @property
    def outputs(self) -> int:
        """Columns of all matrices."""
        assert self.weight.const_value is not None
        return self.weight.const_value.size // self.inputs

    def matrices(self) -> NDArray[np.float64]:
        """The weight as `[group, inputs, outputs]`."""
        array = _array(self.weight)
        if not self.is_conv:
            return (array.T if self.input_axis else array)[None]
        flat = array.reshape(self.group, -1, math.prod(array.shape[1:]))
        return flat.transpose(0, 2, 1)

    def stored(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """The opposite of `matrices`: an array in the layout of the weight."""
        tensor = self.weight.const_value
        assert tensor is not None
        if self.is_conv:
            array = matrices.transpose(0, 2, 1).reshape(tuple(tensor.shape.numpy()))
        else:
            array = matrices[0].T if self.input_axis else matrices[0]
        return array

    def store(self, matrices: Floats, bias: NDArray[np.float64] | None) -> None:
        """Writes the matrices, and a new bias, in the types that the model has."""
        _set(self.weight, self.stored(matrices))
        if bias is not None:
            _set(self.bias or self._new_bias(), bias)

    def bias_array(self) -> NDArray[np.float64] | None:
        """The bias as a vector."""
        return None if self.bias is None else _array(self.bias).reshape(-1)

    def _new_bias(self) -> ir.Value:
        graph = self.node.graph
        assert graph is not None
        name = f"{self.output.name}_bias"
        while name in graph.initializers:
            name += "_"
        value = ir.Value(name=name, type=self.weight.type)
        value.const_value = ir.Tensor(np.zeros(1, np.float32), name=name)
        graph.register_initializer(value)
        if len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        self.node.replace_input_with(2, value)
        return value

    def rows(
        self, source: Floats, output: Floats, most: int, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Up to `most` rows `[rows, group, inputs]` with the outputs `[rows, group, outputs]`.

        Args:
            source: The activation.
            output: What the node, or the one of another model, computes from it.
            most: More are left out, evenly.
            rng: Chooses them.
        """
        if not self.is_conv:
            x: Floats = source.reshape(-1, source.shape[-1])
            y: Floats = output.reshape(-1, output.shape[-1])
            if len(x) > most:
                chosen = np.sort(rng.choice(len(x), most, replace=False))
                x, y = x[chosen], y[chosen]
            return x[:, None], y[:, None]
        places = (output.shape[0], *output.shape[2:])
        count = math.prod(places)
        flat = np.arange(count)
        if count > most:
            flat = np.sort(rng.choice(count, most, replace=False))
        batch, *where = np.unravel_index(flat, places)
        y = np.moveaxis(output, 1, -1)[(batch, *where)]
        patches = self._patches(source, batch, where)
        kernel, channels, group = patches.shape[1], patches.shape[2], self.group
        grouped = patches.reshape(len(flat), kernel, group, channels // group)
        x = grouped.transpose(0, 2, 3, 1).reshape(len(flat), group, -1)
        return x, y.reshape(len(flat), group, -1)

    def _patches(
        self, source: Floats, batch: NDArray[np.int64], where: list[NDArray[np.int64]]
    ) -> Floats:
        """Patches `[positions, kernel, channels]`."""
        assert self.weight.shape is not None
        kernel = tuple(int(size) for size in self.weight.shape.numpy()[2:])
        rank = len(kernel)
        strides = ints_attribute(self.node, "strides") or (1,) * rank
        dilations = ints_attribute(self.node, "dilations") or (1,) * rank
        pads = _pads(self.node, source.shape[2:], kernel, strides, dilations)
        padded = np.pad(source, [(0, 0), (0, 0), *pads])
        last = np.moveaxis(padded, 1, -1)
        parts = []
        for offset in itertools.product(*map(range, kernel)):
            index = [
                place * stride + step * dilation
                for place, stride, step, dilation in zip(
                    where, strides, offset, dilations, strict=True
                )
            ]
            parts.append(last[(batch, *index)])
        return np.stack(parts, axis=1)


def linear_maps(model: ir.Model) -> Iterator[LinearMap]:
    """Those of the main graph, in its order."""
    for node in model.graph:
        found = linear_map(node)
        if found is not None:
            yield found


def is_shared(value: ir.Value) -> bool:
    """True if something else reads the initializer, too, so that it must not change for one."""
    return len(value.uses()) > 1 or value.is_graph_output()


def linear_map(node: ir.Node) -> LinearMap | None:
    """The node as one; None if it is none."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or not _is_weight(weight):
        return None
    assert weight is not None
    if node.op_type == "Gemm":
        factors = [node.attributes[n] for n in ("alpha", "beta") if n in node.attributes]
        if any(factor.as_float() != 1 for factor in factors) or int_attribute(node, "transA", 0):
            return None
    if node.op_type == "MatMul":
        if weight.const_value is None or len(weight.const_value.shape) != 2:
            return None
        return LinearMap(node, source, weight, _added(node))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and (not _is_weight(bias) or _is_matrix(bias)):
        return None
    return LinearMap(node, source, weight, bias)


def _added(node: ir.Node) -> ir.Value | None:
    """The vector that an Add right behind a MatMul adds."""
    output = node.outputs[0]
    users = list(output.uses())
    if len(users) != 1 or output.is_graph_output() or users[0].node.op_type != "Add":
        return None
    other = users[0].node.inputs[1 - users[0].idx]
    if other is None or not _is_weight(other) or _is_matrix(other):
        return None
    assert other.const_value is not None
    return None if other.const_value.size == 1 else other


def _is_weight(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.const_value is not None
        and value.const_value.size > 0
        and value.is_initializer()
        and not value.is_graph_input()
        and value.dtype is not None
        and value.dtype.is_floating_point()
    )


def _is_matrix(value: ir.Value) -> bool:
    assert value.const_value is not None
    return sum(size != 1 for size in value.const_value.shape.numpy()) > 1


def _pads(
    node: ir.Node,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Padding in front and behind of every spatial axis."""
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    rank = len(kernel)
    if mode in ("NOTSET", "VALID"):
        pads = ints_attribute(node, "pads") or (0,) * (2 * rank)
        return [(pads[i], pads[i + rank]) if mode == "NOTSET" else (0, 0) for i in range(rank)]
    found = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        total = max(0, (-(-size // stride) - 1) * stride + reach - size)
        small = total // 2
        found.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return found


def _array(value: ir.Value) -> NDArray[np.float64]:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def _set(value: ir.Value, array: NDArray[Any]) -> None:
    old = value.const_value
    assert old is not None
    shape = array.shape if old.size != array.size else tuple(old.shape.numpy())
    new = np.ascontiguousarray(array.reshape(shape).astype(old.dtype.numpy()))
    value.const_value = ir.Tensor(new, dtype=old.dtype, name=value.name)
    value.shape = ir.Shape(new.shape)

"""Bias correction: the mean error that rounding the weights makes goes into the bias.

    W x + b  =>  W x + (b + (W - Q(W)) E[x])        before W is quantized to Q(W)

so that Q(W) x + b' has the mean that W x + b has. E[x] is the mean of every input channel on
calibration data; for a Conv the kernel's positions are summed, as if none were in the padding
(Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). The
float model is off by what the quantized one will be right by, so this runs directly before a pass
that quantizes weights in the same way. Biases are replaced, never overwritten.

Where a large bias makes the scales of a weight grow, so that it fits int32, so they do here; the
range of the input itself counts, not that of what it may come to share a scale with.

Left alone: nodes whose input has no known mean; computed weights and biases; a MatMul without the
Add of a constant behind it (an Add would cost more than it repairs); excluded nodes. Subgraphs are
not entered: their values are not observed. A second run would correct twice, so a node that was
corrected is marked and skipped.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.graph.calibrated import (
    NO_MEANS,
    NO_RANGES,
    NO_ROUNDINGS,
    Means,
    Ranges,
    Roundings,
)
from onnxopt.graph.quantization import (
    Encoding,
    IntegerType,
    dequantize,
    parameters,
    quantize,
)
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.quantization.regions import weight_refusal
from onnxopt.passes.quantization.tensors import bias_floor, weight_parameters

_RULE = "bias"
_DONE = "onnxopt.bias_corrected"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrectBias(Pass):
    """Adds to biases what rounding the weights takes from the mean of a product.

    Attributes:
        means: Mean of every channel of values, from calibration.
        weight_type: As for the pass that quantizes the weights.
        per_channel: As for that pass.
        reduce_range: As for that pass.
        op_types: Types of nodes to correct.
        exclude: Globs of names of nodes that stay in float.
        roundings: As for that pass.
        ranges: As for the pass that quantizes activations, too, if it does.
        activation_type: As for that pass.
        symmetric: As for that pass.
    """

    name: ClassVar[str] = "correct-bias"
    claims_speed: ClassVar[bool] = False

    means: Means = NO_MEANS
    weight_type: IntegerType = "int8"
    per_channel: bool = True
    reduce_range: bool = False
    op_types: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    exclude: tuple[str, ...] = ()
    roundings: Roundings = NO_ROUNDINGS
    ranges: Ranges = NO_RANGES
    activation_type: IntegerType = "uint8"
    symmetric: bool = False

    def call(self, model: ir.Model) -> PassResult:
        """Corrects the nodes of the main graph."""
        names = Names(model)
        rewrites: Counter[str] = Counter()
        refusals = []
        for node in model.graph:
            if node.domain or node.op_type not in self.op_types or weight_refusal(node):
                continue
            if _DONE in node.metadata_props:
                continue
            if any(fnmatch.fnmatchcase(node.name or "", glob) for glob in self.exclude):
                continue
            reason = self._correct(model.graph, node, names)
            if reason:
                refusals.append(Refusal(_RULE, node.name or node.op_type, reason))
            else:
                rewrites[node.op_type] += 1
                node.metadata_props[_DONE] = "1"
        return PassResult(model, rewrites, refusals)

    def _correct(self, graph: ir.Graph, node: ir.Node, names: Names) -> str:
        """Replaces the bias of a node; the result is why not, or ""."""
        data, weight = node.inputs[0], node.inputs[1]
        means = self.means.get(data.name or "") if data is not None else None
        array = constant(weight)
        if means is None or array is None:
            return "the mean of its input is not known"
        lost = (array - self._rounded(node, array)).astype(np.float64)
        shift = _shift(node, lost, means)
        if shift is None:
            return f"its input has {len(means)} channels on average, which do not fit the weight"
        place = _bias_place(node, len(shift))
        if place is None:
            return "it has no bias"
        user, index, old = place
        bias = shift if old is None else old + shift
        base = user.inputs[index] if index < len(user.inputs) else None
        name = names.unique(f"{base.name if base is not None else node.name}_corrected")
        tensor = ir.Tensor(bias.astype(np.float32), name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.shape, value.dtype = ir.Shape(bias.shape), ir.DataType.FLOAT
        graph.register_initializer(value)
        if index >= len(user.inputs):
            user.resize_inputs(index + 1)
        user.replace_input_with(index, value)
        return ""

    def _rounded(self, node: ir.Node, array: NDArray[Any]) -> NDArray[np.float32]:
        """What the weight becomes."""
        axis = _channel_axis(node) if self.per_channel else None
        encoding = Encoding(self.weight_type, True, self.reduce_range)
        floor = self._floor(node, array.shape[_channel_axis(node)], axis)
        found = self.roundings.get(node.inputs[1].name or "") if node.inputs[1] else None
        if found is not None and found.fits(array.shape, encoding.dtype, axis, floor):
            return dequantize(found.integers, found.params)
        params = weight_parameters(array, encoding, axis, floor)
        return dequantize(quantize(array, params), params)

    def _floor(self, node: ir.Node, channels: int, axis: int | None) -> NDArray[np.float64] | None:
        """The smallest scales of the weight with which an int32 bias does not overflow."""
        data, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
        ends = self.ranges.get(data.name or "") if data is not None else None
        if ends is None:
            return None
        scale = parameters(*ends, Encoding(self.activation_type, self.symmetric)).scale
        return bias_floor(bias, float(scale), channels, axis)


def _shift(
    node: ir.Node, lost: NDArray[np.float64], means: NDArray[np.float32]
) -> NDArray[np.float64] | None:
    """(W - Q(W)) E[x] by output channel."""
    if node.op_type != "Conv":
        lost = lost if _channel_axis(node) == 0 else lost.T
        return lost @ means if lost.shape[1] == len(means) else None
    group = int_attribute(node, "group", 1)
    by_input = lost.reshape(*lost.shape[:2], -1).sum(axis=2)
    if by_input.shape[1] * group != len(means):
        return None
    grouped = by_input.reshape(group, -1, by_input.shape[1])
    shift: NDArray[np.float64] = np.einsum("goi,gi->go", grouped, means.reshape(group, -1))
    return shift.reshape(-1)


def _channel_axis(node: ir.Node) -> int:
    """The axis of the weight with the output channels."""
    return 0 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else 1


def _bias_place(
    node: ir.Node, channels: int
) -> tuple[ir.Node, int, NDArray[np.float64] | None] | None:
    """The node and input that hold the bias, and the bias."""
    if node.op_type != "MatMul":
        value = node.inputs[2] if len(node.inputs) > 2 else None
        array = None if value is None else constant(value)
        if array is not None and array.size not in (1, channels):
            return None
        spread = None if array is None else np.broadcast_to(array.reshape(-1), (channels,))
        return node, 2, None if spread is None else spread.astype(np.float64)
    output = node.outputs[0]
    users = output.consumers()
    if len(users) != 1 or users[0].op_type != "Add" or output.is_graph_output():
        return None
    index = 1 if users[0].inputs[0] is output else 0
    array = constant(users[0].inputs[index])
    if array is None or array.shape != (channels,) or array.dtype != np.float32:
        return None
    return users[0], index, array.astype(np.float64)

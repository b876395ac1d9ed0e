"""Static quantization: QuantizeLinear and DequantizeLinear around what has an integer kernel.

    Conv(x, w) -> Relu  =>  DQ(Q(Conv(DQ(Q(x)), DQ(w8), DQ(b32))))

with q = round(x / scale) + zero_point, scales from calibrated ranges. ONNX Runtime (as TensorRT and
others) computes DQ -> op -> Q on integers, so pairs sit directly on the outputs of such ops, and a
region of them has no float value inside. Before opset 13 the pairs of per-channel scales are
com.microsoft's, which ONNX Runtime fuses as well. A
range that begins at zero does what Relu and Clip(0, high) do, which are removed; one from 0 to 1
clips for HardSigmoid(x), which becomes Q(DQ(q) + offset) with the scale of x times the slope, and
for HardSwish(x) = x * HardSigmoid(x). Values that copies (Reshape, MaxPool, ...) only move keep one
scale from end to end; inputs of a Concat share one unless their ranges differ so much that the
narrower would lose more than a bit. Weights become int8 and are stored once, biases int32 with the
scale of the products; a channel whose bias would overflow gets a larger scale.

Refused, with the reason: nodes without an integer kernel; depthwise Convs unless asked for; values
without a range (in subgraphs nothing is calibrated); other types than float32; computed weights.
What is quantized already is left as it is. Functions are not entered.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.graph.calibrated import NO_RANGES, NO_ROUNDINGS, Range, Ranges, Roundings
from onnxopt.graph.inference import infer_model
from onnxopt.graph.integer_kernels import HARD_ACTIVATIONS, activations_of
from onnxopt.graph.quantization import (
    Encoding,
    IntegerType,
    QuantizationParameters,
    parameters,
    quantize,
)
from onnxopt.graph.saturating import slope_and_offset
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.quantization.float_islands import isolate
from onnxopt.passes.quantization.regions import Regions
from onnxopt.passes.quantization.scales import shared_ranges
from onnxopt.passes.quantization.tensors import QuantizedTensors, bias_floor, drop_unused

_RULE = "qdq"
# From this opset on the standard DequantizeLinear takes a scale per channel.
_PER_CHANNEL_OPSET = 13
_FIRST_OPSET = 10
_WIDE_OPSET = 21
_UNIT = (0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InsertQdq(Pass):
    """Inserts QuantizeLinear and DequantizeLinear around regions with integer kernels.

    Attributes:
        ranges: Range of every value that may be quantized, from calibration.
        activation_type: Integer type of activations.
        weight_type: Integer type of weights, which are symmetric.
        symmetric: Zero points of activations are in the middle, as TensorRT wants it.
        per_channel: A scale for each output channel of a weight.
        reduce_range: Weights so small that CPUs without VNNI cannot saturate (see `saturation`).
        op_types: Types of nodes to build regions around.
        exclude: Globs of names of nodes that stay in float.
        thin: Quantize depthwise and thinly grouped Convs everywhere, not only between others.
        joins: Quantize Add, Mul, pooling and the like between others.
        least_work: Leave products with fewer multiplications per output in float.
        roundings: Integers of weights that are not those nearest to them.
    """

    name: ClassVar[str] = "insert-qdq"

    ranges: Ranges = NO_RANGES
    activation_type: IntegerType = "uint8"
    weight_type: IntegerType = "int8"
    symmetric: bool = False
    per_channel: bool = True
    reduce_range: bool = False
    op_types: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    exclude: tuple[str, ...] = ()
    thin: bool = False
    joins: bool = True
    least_work: int = 0
    roundings: Roundings = NO_ROUNDINGS

    def call(self, model: ir.Model) -> PassResult:
        """Quantizes the main graph."""
        opset = model.opset_imports.get("", 1)
        if opset < _FIRST_OPSET:
            reason = f"opset {opset} has no QuantizeLinear; raise it to {_PER_CHANNEL_OPSET}"
            return PassResult(model, refusals=[Refusal(_RULE, "", reason)])
        infer_model(model)
        regions = Regions(
            model.graph,
            self.ranges,
            exclude=self.exclude,
            op_types=self.op_types,
            thin=self.thin,
            joins=self.joins,
            absorb=not self.symmetric,
            least_work=self.least_work,
        )
        refusals = [Refusal(_RULE, n.name or n.op_type, r) for n, r in regions.reasons.items()]
        inserting = _Inserting(self, model, regions, opset)
        inserting.run()
        if inserting.rewrites:
            drop_unused(model)
        return PassResult(model, inserting.rewrites, refusals)


class _Inserting:
    """One insertion into one graph, in topological order: whoever makes a value quantizes it."""

    def __init__(self, options: InsertQdq, model: ir.Model, regions: Regions, opset: int) -> None:
        self.rewrites: Counter[str] = Counter()
        self._options, self._regions = options, regions
        self._graph = model.graph
        self._names = Names(model)
        self._tensors = QuantizedTensors(self._names, options.roundings)
        self._activations = Encoding(options.activation_type, options.symmetric)
        self._weights = Encoding(options.weight_type, True, options.reduce_range)
        # Scales per channel and 16-bit types came late to the standard operators.
        is_wide = "16" in options.activation_type or "16" in options.weight_type
        needed = _PER_CHANNEL_OPSET if options.per_channel else _FIRST_OPSET
        is_early = opset < (_WIDE_OPSET if is_wide else needed)
        self._domain = "com.microsoft" if is_early else ""
        self._model = model
        # By value that was quantized, and by what stands for it since.
        self._pairs: dict[ir.Value, ir.Value] = {}
        self._params: dict[ir.Value, QuantizationParameters] = {}

    def run(self) -> None:
        """Inserts everything that is planned."""
        regions = self._regions
        if self._domain and regions.parts:
            self._model.opset_imports.setdefault(self._domain, 1)
        ranges = shared_ranges(regions, self._options.ranges)
        behind = {node: regions.output(node) for node in regions.parts}
        behind = {node: value for node, value in behind.items() if regions.gives_integers(value)}
        for node in [node for node in self._graph if node in regions.parts]:
            for index in activations_of(node):
                value = node.inputs[index] if index < len(node.inputs) else None
                if value is not None and value not in self._params:
                    node.replace_input_with(index, self._pair_for(node, value, ranges))
            op_type = node.op_type
            self.rewrites[op_type] += 1
            if op_type in HARD_ACTIVATIONS:
                self._harden(node)
            if op_type in ("Conv", "Gemm", "MatMul"):
                self._quantize_weight(node)
            if node in behind:
                ends = _UNIT if op_type == "HardSigmoid" else ranges[behind[node]]
                self._quantize_output(node, behind[node], ends)
        isolate(self._graph, self._names, self._tensors, self._model.opset_imports)

    def _pair_for(
        self, node: ir.Node, value: ir.Value, ranges: Mapping[ir.Value, Range]
    ) -> ir.Value:
        """A float value, or a constant, as a node of a region reads it."""
        if value in self._pairs:
            return self._pairs[value]
        name = value.name or "value"
        array = constant(value)
        if array is not None:
            stored, params = self._tensors.weight(self._graph, value, self._activations, None)
            new = [self._node("DequantizeLinear", stored, params, name)]
            self._graph.insert_before(node, new)
        else:
            params = parameters(*ranges[value], self._activations)
            new = self._pair(value, params, name)
            producer = value.producer()
            if producer is not None and producer.graph is self._graph:
                self._graph.insert_after(producer, new)
            else:
                self._graph.insert_before(self._graph[0], new)
        made = new[-1].outputs[0]
        self._known(made, value, params)
        return made

    def _quantize_output(self, node: ir.Node, value: ir.Value, ends: Range) -> None:
        """Puts Q and DQ behind a node, in place of the Relu that the range absorbs."""
        made_by_node = node.outputs[0]
        absorbed = value.producer() if value is not made_by_node else None
        if absorbed is not None:
            ends = (0.0, ends[1])
        params = parameters(*ends, self._activations)
        new = self._pair(made_by_node, params, value.name or "value")
        self._graph.insert_after(node, new)
        made = new[-1].outputs[0]
        made.type, made.shape = value.type, value.shape
        replace_value(self._graph, new[-1], value, made, self._names)
        new[0].replace_input_with(0, made_by_node)
        self._known(made, value, params)
        removed = remove_dead([absorbed])[0] if absorbed is not None else []
        record_rewrite(new, _RULE, removed)

    def _known(self, made: ir.Value, value: ir.Value, params: QuantizationParameters) -> None:
        made.type, made.shape = value.type, value.shape
        self._pairs[value], self._params[made] = made, params

    def _harden(self, node: ir.Node) -> None:
        """Makes an Add of a HardSigmoid, and a Mul behind it of a HardSwish."""
        data = node.inputs[0]
        assert data is not None
        source = data.producer()
        integers = None if source is None else source.inputs[0]
        assert integers is not None
        slope, offset = slope_and_offset(node)
        params, name = self._params[data], node.name or node.op_type
        # The same integers with another scale are the product with the slope.
        sloped = dataclasses.replace(params, scale=params.scale * np.float32(slope))
        new = [self._node("DequantizeLinear", integers, sloped, f"{name}_slope")]
        of_offset = parameters(offset, offset, self._activations)
        stored = quantize(np.asarray(offset, np.float32), of_offset)
        value = self._tensors.store(self._graph, stored, f"{name}_offset")
        new.append(self._node("DequantizeLinear", value, of_offset, f"{name}_offset"))
        inputs = [made.outputs[0] for made in new]
        if node.op_type == "HardSwish":
            gate = ir.node("Add", inputs, name=self._names.unique_node(f"{name}_gate"))
            gate.outputs[0].name = self._names.unique(f"{name}_gate")
            gate.outputs[0].type, gate.outputs[0].shape = data.type, data.shape
            pair = self._pair(gate.outputs[0], parameters(*_UNIT, self._activations), name)
            new += [gate, *pair]
            inputs = [data, pair[-1].outputs[0]]
        self._graph.insert_before(node, new)
        node.op_type = "Mul" if node.op_type == "HardSwish" else "Add"
        node.attributes.clear()
        node.resize_inputs(2)
        for index, made_value in enumerate(inputs):
            node.replace_input_with(index, made_value)
        record_rewrite(new, _RULE, [])

    def _quantize_weight(self, node: ir.Node) -> None:
        weight, data = node.inputs[1], node.inputs[0]
        assert weight is not None
        assert data is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        shape = weight.const_value.shape.numpy() if weight.const_value is not None else ()
        channel_axis = 0 if node.op_type == "Conv" or int_attribute(node, "transB", 0) else 1
        axis = channel_axis if self._options.per_channel else None
        channels = shape[channel_axis]
        input_scale = self._params[data].scale
        floor = bias_floor(bias, float(input_scale), channels, axis)
        stored, params = self._tensors.weight(self._graph, weight, self._weights, axis, floor)
        new = [self._node("DequantizeLinear", stored, params, weight.name or "weight")]
        self._graph.insert_before(node, new)
        node.replace_input_with(1, new[0].outputs[0])
        record_rewrite(new, _RULE, [])
        if bias is None:
            return
        scale = np.broadcast_to(input_scale * params.scale, (channels,) if axis is not None else ())
        stored = self._tensors.bias(self._graph, bias, np.ascontiguousarray(scale), channels)
        of_bias = QuantizationParameters(
            np.ascontiguousarray(scale), np.zeros((), np.int32), None if axis is None else 0
        )
        new = [self._node("DequantizeLinear", stored, of_bias, bias.name or "bias")]
        self._graph.insert_before(node, new)
        node.replace_input_with(2, new[0].outputs[0])
        record_rewrite(new, _RULE, [])

    def _pair(self, value: ir.Value, params: QuantizationParameters, name: str) -> list[ir.Node]:
        quantize = self._node("QuantizeLinear", value, params, name)
        return [quantize, self._node("DequantizeLinear", quantize.outputs[0], params, name)]

    def _node(
        self, op_type: str, value: ir.Value, params: QuantizationParameters, name: str
    ) -> ir.Node:
        """One QuantizeLinear or DequantizeLinear, not yet in the graph."""
        inputs = [value, self._tensors.store(self._graph, params.scale, f"{name}_scale")]
        if params.zero_point.dtype != np.int32:  # of a bias it is zero, and left out
            zero = self._tensors.store(self._graph, params.zero_point, f"{name}_zero_point")
            inputs.append(zero)
        attributes = {} if params.axis is None else {"axis": params.axis}
        node = ir.node(
            op_type,
            inputs,
            attributes,
            domain=self._domain,
            name=self._names.unique_node(f"{name}_{op_type}"),
        )
        output = node.outputs[0]
        output.name = self._names.unique(f"{name}_{op_type}")
        is_float = op_type == "DequantizeLinear"
        dtype = ir.DataType.FLOAT if is_float else ir.DataType.from_numpy(params.zero_point.dtype)
        output.type, output.shape = ir.TensorType(dtype), value.shape
        return node

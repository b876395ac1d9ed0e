"""Inserting QuantizeLinear and DequantizeLinear where a plan of regions wants them (see `qdq`)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.graph.calibrated import Range
from onnxopt.graph.integer_kernels import HARD_ACTIVATIONS, activations_of
from onnxopt.graph.quantization import Encoding, QuantizationParameters, parameters, quantize
from onnxopt.graph.saturating import slope_and_offset
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.quantization.float_islands import isolate
from onnxopt.passes.quantization.regions import Regions
from onnxopt.passes.quantization.scales import shared_ranges
from onnxopt.passes.quantization.tensors import QuantizedTensors, bias_floor

if TYPE_CHECKING:
    from onnxopt.passes.quantization.qdq import InsertQdq

_RULE = "qdq"
# From this opset on the standard DequantizeLinear takes a scale per channel.
PER_CHANNEL_OPSET = 13
FIRST_OPSET = 10
_WIDE_OPSET = 21
_UNIT = (0.0, 1.0)


class Inserting:
    """One insertion into one graph, in topological order: whoever makes a value quantizes it."""

    def __init__(
        self,
        options: InsertQdq,
        model: ir.Model,
        regions: Regions,
        graph: ir.Graph,
        names: Names,
        tensors: QuantizedTensors,
    ) -> None:
        self.rewrites: Counter[str] = Counter()
        self._options, self._regions = options, regions
        self._graph, self._names, self._tensors = graph, names, tensors
        self._activations = Encoding(options.activation_type, options.symmetric)
        self._weights = Encoding(options.weight_type, True, options.reduce_range)
        # Scales per channel and 16-bit types came late to the standard operators.
        is_wide = "16" in options.activation_type or "16" in options.weight_type
        needed = PER_CHANNEL_OPSET if options.per_channel else FIRST_OPSET
        is_early = model.opset_imports.get("", 1) < (_WIDE_OPSET if is_wide else needed)
        self._domain = "com.microsoft" if is_early else ""
        self._model = model
        # By value that was quantized and how, and by what stands for it since.
        self._pairs: dict[tuple[ir.Value, Encoding], ir.Value] = {}
        self._params: dict[ir.Value, QuantizationParameters] = {}
        self._inserted: set[ir.Node] = set()

    def run(self) -> None:
        """Inserts everything that is planned."""
        regions = self._regions
        if self._domain and regions.parts:
            self._model.opset_imports.setdefault(self._domain, 1)
        ranges = shared_ranges(regions, self._options.ranges)
        behind = {node: regions.output(node) for node in regions.parts}
        behind = {node: value for node, value in behind.items() if regions.gives_integers(value)}
        operands = {node: activations_of(node) for node in regions.parts}
        for node in [node for node in self._graph if node in regions.parts]:
            of_activations = len(operands[node]) > 1 and node.op_type == "MatMul"
            for index in operands[node]:
                value = node.inputs[index] if index < len(node.inputs) else None
                # Kernels are made for a second operand of the type of weights.
                encoding = self._weights if of_activations and index == 1 else self._activations
                if value is not None and value not in self._params:
                    node.replace_input_with(index, self._pair_for(node, value, ranges, encoding))
            op_type = node.op_type
            self.rewrites[op_type] += 1
            if op_type in HARD_ACTIVATIONS:
                self._harden(node)
            if op_type in ("Conv", "Gemm", "MatMul") and not of_activations:
                self._quantize_weight(node)
            if node in behind:
                ends = _UNIT if op_type == "HardSigmoid" else ranges[behind[node]]
                self._quantize_output(node, behind[node], ends)
        opsets = self._model.opset_imports
        isolate(self._graph, self._names, self._tensors, opsets, self._inserted)

    def _pair_for(
        self,
        node: ir.Node,
        value: ir.Value,
        ranges: Mapping[ir.Value, Range],
        encoding: Encoding,
    ) -> ir.Value:
        """A float value, or a constant, as a node of a region reads it."""
        known = self._pairs.get((value, encoding))
        if known is not None:
            return known
        name = value.name or "value"
        array = constant(value)
        if array is not None:
            stored, params = self._tensors.weight(self._graph, value, encoding, None)
            new = [self._node("DequantizeLinear", stored, params, name)]
            self._graph.insert_before(node, new)
        else:
            params = parameters(*ranges[value], encoding)
            new = self._pair(value, params, name)
            producer = value.producer()
            if producer is not None and producer.graph is self._graph:
                self._graph.insert_after(producer, new)
            else:
                self._graph.insert_before(self._graph[0], new)
        made = new[-1].outputs[0]
        self._known(made, value, params, encoding)
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
        self._known(made, value, params, self._activations)
        removed = remove_dead([absorbed])[0] if absorbed is not None else []
        record_rewrite(new, _RULE, removed)

    def _known(
        self, made: ir.Value, value: ir.Value, params: QuantizationParameters, encoding: Encoding
    ) -> None:
        made.type, made.shape = value.type, value.shape
        self._pairs[value, encoding], self._params[made] = made, params

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
        # Where the float is, so that several branches share it.
        home = weight.graph if isinstance(weight.graph, ir.Graph) else self._graph
        stored, params = self._tensors.weight(home, weight, self._weights, axis, floor)
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
        self._inserted.add(node)
        return node

"""Dynamic quantization: weights are integers, activations become integers in every run.

    Add(MatMul(x, w), b)      =>  DynamicQuantizeMatMul(x, w8, scales, zeros, b)
    MatMul(x, w), MatMul(x, v)=>  q, s, z = DynamicQuantizeLinear(x)
                                  MatMulIntegerToFloat(q, w8, s, ..), .. (q, v8, s, ..)
    Gemm(x, w, b)             =>  as MatMul + Add, the weight transposed where transB is 1
    LSTM(x, w, r, b, ..)      =>  DynamicQuantizeLSTM(x, w8', r8', b, .., scales, zeros)
    Gather(table, ids)        =>  DequantizeLinear(Gather(table8, ids))         only if asked for

The operators are com.microsoft's, in the form that ONNX Runtime's CPU provider runs fastest: bias
and scales are applied where the integers leave the registers, and an activation that several
products read is quantized once (from opset 11 on). Needs no calibration data, and its ranges are
exact. Works in subgraphs. Weights are stored once, also if several nodes share them, and no float
original stays.

Conv is never touched: ConvInteger, the only dynamic form of it, is slower than float. Refused, with
the reason: weights that are computed, of other types or ranks; products too small to pay; LSTMs
with projections of the layout or activations that the integer form lacks; GRU and RNN.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.provenance import record_rewrite
from onnxopt.core.removal import remove_dead
from onnxopt.core.rewriting import replace_value
from onnxopt.core.walking import all_graphs
from onnxopt.graph.calibrated import NO_ROUNDINGS, Roundings
from onnxopt.graph.inference import infer_model
from onnxopt.graph.integer_kernels import WITHOUT_KERNEL
from onnxopt.graph.quantization import Encoding, QuantizationParameters, is_finite
from onnxopt.graph.values import constant, int_attribute
from onnxopt.passes.quantization.recurrent import SMALLEST_WEIGHT, lstm_refusal
from onnxopt.passes.quantization.regions import weight_refusal
from onnxopt.passes.quantization.tensors import QuantizedTensors, drop_unused

_RULE = "dynamic"
_DOMAIN = "com.microsoft"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(Pass):
    """Makes integers of the weights of MatMul, Gemm and LSTM, and of activations in every run.

    Attributes:
        weight_type: Integer type of weights. Products with uint8 saturate on no CPU and are slower.
        per_channel: A scale for each output channel of a weight.
        reduce_range: Weights so small that CPUs without VNNI cannot saturate (see `saturation`).
        op_types: Types of nodes to quantize.
        exclude: Globs of names of nodes that stay in float.
        embeddings: Store the tables of Gather as integers as well: smaller, not faster.
        roundings: Integers of weights that are not those nearest to them.
    """

    name: ClassVar[str] = "quantize-dynamic"

    weight_type: Literal["int8", "uint8"] = "int8"
    per_channel: bool = True
    reduce_range: bool = False
    op_types: tuple[str, ...] = ("MatMul", "Gemm", "LSTM")
    exclude: tuple[str, ...] = ()
    embeddings: bool = False
    roundings: Roundings = NO_ROUNDINGS

    def call(self, model: ir.Model) -> PassResult:
        """Quantizes the main graph and all subgraphs."""
        infer_model(model)
        run = _Run(self, model)
        for graph in list(all_graphs(model)):
            run.graph(graph)
        if run.rewrites:
            if run.uses_domain:
                model.opset_imports.setdefault(_DOMAIN, 1)
            drop_unused(model)
        return PassResult(model, run.rewrites, run.refusals)


class _Run:
    """One run over a model."""

    def __init__(self, options: QuantizeDynamic, model: ir.Model) -> None:
        self.rewrites: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self.uses_domain = False
        self._options, self._model = options, model
        self._names = Names(model)
        self._tensors = QuantizedTensors(self._names, options.roundings)
        self._weights = Encoding(options.weight_type, True, options.reduce_range)
        self._activations: dict[ir.Value, ir.Node] = {}

    def graph(self, graph: ir.Graph) -> None:
        """Quantizes the nodes of one graph."""
        chosen = []
        for node in list(graph):
            reason = self._refusal(node)
            if reason is None:
                chosen.append(node)
            elif reason:
                self.refusals.append(Refusal(_RULE, node.name or node.op_type, reason))
        readers = Counter(n.inputs[0] for n in chosen if n.op_type in ("MatMul", "Gemm"))
        shares = self._opset() >= 11  # DynamicQuantizeLinear
        for node in chosen:
            op_type = node.op_type
            if op_type == "LSTM":
                self._lstm(graph, node)
            elif op_type == "Gather":
                self._gather(graph, node)
            else:
                self._product(graph, node, shared=shares and readers[node.inputs[0]] > 1)
            self.rewrites[op_type] += 1

    def _refusal(self, node: ir.Node) -> str | None:
        """Why a node stays as it is; "" if nobody would expect otherwise; None to quantize it."""
        options = self._options
        if node.domain or (node.op_type not in options.op_types and node.op_type != "Gather"):
            return WITHOUT_KERNEL.get(node.op_type, "") if node.op_type in ("GRU", "RNN") else ""
        if any(fnmatch.fnmatchcase(node.name or "", glob) for glob in options.exclude):
            return "excluded"
        if node.op_type == "Gather":
            table = constant(node.inputs[0]) if options.embeddings else None
            is_table = table is not None and table.dtype == np.float32 and table.ndim == 2
            if table is None or not is_table or self._opset() < 10:
                return ""
            return None if is_finite(table) else "its table holds NaN or infinity"
        if node.op_type == "LSTM":
            return lstm_refusal(node)
        reason = weight_refusal(node)
        if reason:
            return reason
        weight = constant(node.inputs[1])
        assert weight is not None
        if weight.size < SMALLEST_WEIGHT:
            return f"a weight of {weight.size} numbers is too small to pay"
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        channels = weight.shape[0 if int_attribute(node, "transB", 0) else 1]
        if bias is not None and bias.size not in (1, channels):
            return "its bias differs from row to row"
        return None

    def _opset(self) -> int:
        return self._model.opset_imports.get("", 1)

    def _product(self, graph: ir.Graph, node: ir.Node, *, shared: bool) -> None:
        data, weight = node.inputs[0], node.inputs[1]
        assert data is not None
        assert weight is not None
        transposed = bool(int_attribute(node, "transB", 0))
        axis = 1 if self._options.per_channel else None
        stored, params = self._tensors.weight(
            self._model.graph, weight, self._weights, axis, transposed=transposed
        )
        scale, zero = self._parameters(params, weight.name or "weight")
        assert stored.const_value is not None
        channels = stored.const_value.shape.numpy()[1]
        last, bias = self._bias(node, channels)
        if shared:
            source = self._quantized(graph, node, data)
            q, a_scale, a_zero = source.outputs
            inputs = [q, stored, a_scale, scale, a_zero, zero, bias]
            op_type = "MatMulIntegerToFloat"
        else:
            inputs = [data, stored, scale, zero, bias]
            op_type = "DynamicQuantizeMatMul"
        self._replace(graph, last, op_type, inputs[: None if bias is not None else -1], {})

    def _bias(self, node: ir.Node, channels: int) -> tuple[ir.Node, ir.Value | None]:
        """The last node that is replaced, and the bias that goes into the product."""
        value = node.inputs[2] if len(node.inputs) > 2 else None
        last = node
        output = node.outputs[0]
        users = output.consumers()
        if value is None and len(users) == 1 and not output.is_graph_output():
            user = users[0]
            if user.op_type == "Add" and not user.domain and user.graph is node.graph:
                other = user.inputs[1] if user.inputs[0] is output else user.inputs[0]
                found = constant(other)
                if found is not None and found.shape == (channels,) and found.dtype == np.float32:
                    value, last = other, user
        if value is None:
            return last, None
        array = constant(value)
        assert array is not None
        if array.shape != (channels,):
            spread = np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (channels,)))
            value = self._tensors.store(self._model.graph, spread, f"{value.name}_bias")
        return last, value

    def _quantized(self, graph: ir.Graph, node: ir.Node, data: ir.Value) -> ir.Node:
        known = self._activations.get(data)
        if known is not None and known.graph is graph:
            return known
        name = data.name or "value"
        made = ir.node(
            "DynamicQuantizeLinear",
            [data],
            num_outputs=3,
            name=self._names.unique_node(f"{name}_DynamicQuantizeLinear"),
        )
        types = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
        for value, dtype, part in zip(
            made.outputs, types, ("quantized", "scale", "zero_point"), strict=True
        ):
            value.name = self._names.unique(f"{name}_{part}")
            value.type = ir.TensorType(dtype)
            value.shape = data.shape if part == "quantized" else ir.Shape(())
        graph.insert_before(node, made)
        record_rewrite([made], _RULE, [])
        self._activations[data] = made
        return made

    def _parameters(self, params: QuantizationParameters, name: str) -> tuple[ir.Value, ir.Value]:
        graph = self._model.graph
        return (
            self._tensors.store(graph, params.scale, f"{name}_scale"),
            self._tensors.store(graph, params.zero_point, f"{name}_zero_point"),
        )

    def _lstm(self, graph: ir.Graph, node: ir.Node) -> None:
        inputs = [*node.inputs, *([None] * (8 - len(node.inputs)))]
        found: list[ir.Value] = []
        for index in (1, 2):
            value = inputs[index]
            array = constant(value)
            assert array is not None
            assert value is not None
            # The kernel wants [directions, inputs, 4 x hidden], and a scale for each column.
            moved = np.ascontiguousarray(array.transpose(0, 2, 1))
            stored, scale, zero = self._tensors.directions(
                self._model.graph,
                moved,
                value.name or "weight",
                self._weights,
                per_channel=self._options.per_channel,
            )
            inputs[index] = stored
            found += [scale, zero]
        attributes = {name: a for name, a in node.attributes.items() if name != "layout"}
        self._replace(graph, node, "DynamicQuantizeLSTM", [*inputs, *found], attributes)

    def _gather(self, graph: ir.Graph, node: ir.Node) -> None:
        table = node.inputs[0]
        assert table is not None
        stored, params = self._tensors.weight(self._model.graph, table, Encoding("int8"), None)
        scale, zero = self._parameters(params, table.name or "table")
        gather = ir.node(
            "Gather",
            [stored, node.inputs[1]],
            dict(node.attributes),
            name=self._names.unique_node(f"{node.name}_quantized"),
        )
        gather.outputs[0].name = self._names.unique(f"{node.outputs[0].name}_quantized")
        gather.outputs[0].type = ir.TensorType(ir.DataType.INT8)
        gather.outputs[0].shape = node.outputs[0].shape
        graph.insert_before(node, gather)
        record_rewrite([gather], _RULE, [])
        self._replace(graph, node, "DequantizeLinear", [gather.outputs[0], scale, zero], {}, "")

    def _replace(
        self,
        graph: ir.Graph,
        node: ir.Node,
        op_type: str,
        inputs: list[ir.Value | None],
        attributes: Mapping[str, ir.Attr],
        domain: str = _DOMAIN,
    ) -> None:
        """Puts a node in place of another one and of what only that one read."""
        self.uses_domain |= bool(domain)
        made = ir.node(
            op_type,
            inputs,
            dict(attributes),
            domain=domain,
            num_outputs=len(node.outputs),
            name=self._names.unique_node(f"{node.name or node.op_type}_quantized"),
        )
        graph.insert_before(node, made)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            if not old.name:
                continue
            if not old.is_graph_output():
                old.name, new.name = self._names.unique(f"{old.name}_float"), old.name
            replace_value(graph, node, old, new, self._names)
        removed, _ = remove_dead([node])
        record_rewrite([made], _RULE, removed)

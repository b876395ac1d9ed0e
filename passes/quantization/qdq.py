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
without a range, such as those of a branch that no sample took; other types than float32; computed
weights. What is quantized already is left as it is. Subgraphs are quantized as well; functions are
not entered.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.names import Names
from onnxopt.core.passes import Pass, PassResult, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.calibrated import NO_RANGES, NO_ROUNDINGS, Ranges, Roundings
from onnxopt.graph.inference import infer_model
from onnxopt.graph.quantization import IntegerType
from onnxopt.passes.quantization.inserting import FIRST_OPSET, PER_CHANNEL_OPSET, Inserting
from onnxopt.passes.quantization.regions import Regions
from onnxopt.passes.quantization.tensors import QuantizedTensors, drop_unused

_RULE = "qdq"


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
        products: Quantize MatMuls of two activations too, such as those of attention.
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
    products: bool = False
    roundings: Roundings = NO_ROUNDINGS

    def call(self, model: ir.Model) -> PassResult:
        """Quantizes the main graph and all subgraphs."""
        opset = model.opset_imports.get("", 1)
        if opset < FIRST_OPSET:
            reason = f"opset {opset} has no QuantizeLinear; raise it to {PER_CHANNEL_OPSET}"
            return PassResult(model, refusals=[Refusal(_RULE, "", reason)])
        infer_model(model)
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        names = Names(model)
        tensors = QuantizedTensors(names, self.roundings)
        # Inner graphs first: what they read from around them still has the name of its range.
        for graph in reversed(list(all_graphs(model))):
            regions = Regions(
                graph,
                self.ranges,
                exclude=self.exclude,
                op_types=self.op_types,
                thin=self.thin,
                joins=self.joins,
                absorb=not self.symmetric,
                least_work=self.least_work,
                products=self.products,
            )
            reasons = regions.reasons.items()
            refusals += [Refusal(_RULE, node.name or node.op_type, text) for node, text in reasons]
            inserting = Inserting(self, model, regions, graph, names, tensors)
            inserting.run()
            rewrites += inserting.rewrites
        if rewrites:
            drop_unused(model)
        return PassResult(model, rewrites, refusals)

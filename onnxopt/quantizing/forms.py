"""The quantized forms of a model: which passes with which options make each of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import onnx_ir as ir

from onnxopt.calibration.observers import Method
from onnxopt.calibration.table import CalibrationTable
from onnxopt.core.passes import Pass, Refusal
from onnxopt.core.walking import all_graphs
from onnxopt.graph.calibrated import NO_RANGES, NO_ROUNDINGS, Means, Ranges, Roundings
from onnxopt.graph.integer_kernels import activations_of, multiplies_activations, part_of
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization import CorrectBias, InsertQdq, QuantizeDynamic
from onnxopt.quantizing.options import QuantizeOptions

Kind = Literal["static", "mixed", "dynamic"]
_PRODUCTS = ("MatMul", "Gemm", "LSTM")
_CORRECTED = ("Conv", "MatMul", "Gemm")
# From about so many multiplications per output on, a product alone pays for its conversions.
_LARGE_WORK = 256
# Tried where the user names no method; the one with the least error at the output is kept.
METHODS_TRIED: tuple[Method, ...] = ("min-max", "mse", "percentile")


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a form is built from.

    Attributes:
        model: The float model.
        table: Statistics of its values, if known.
        ranges: Ranges that were chosen in another way than by one method for all.
        roundings: Integers of weights that are not those nearest to them.
    """

    model: ir.Model
    table: CalibrationTable | None = None
    ranges: Ranges | None = None
    roundings: Roundings = NO_ROUNDINGS


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to quantize.

    Attributes:
        kind: "static": all on calibrated ranges; "dynamic": ranges found in every run; "mixed":
            Conv on calibrated ranges, MatMul, Gemm and LSTM dynamic.
        method: How ranges are chosen; None where there are none.
        corrected: Biases make up for the mean error of rounded weights.
        unsigned: Weights are uint8, whose products do not saturate on any CPU: all 8 bits count,
            but the kernels are slower.
        least_work: Static products with fewer multiplications per output stay in float.
        joins: Static regions reach over Add, pooling and the like.
        products: Static MatMuls of two activations are taken as well.
        repairs: What else was done for accuracy (see `repairing`).
    """

    kind: Kind
    method: Method | None = None
    corrected: bool = False
    unsigned: bool = False
    least_work: int = 0
    joins: bool = True
    products: bool = False
    repairs: tuple[str, ...] = ()

    def __str__(self) -> str:
        details = [
            "" if "ranges" in self.repairs else self.method or "",
            *self.repairs,
            "bias" * self.corrected,
            "uint8 weights" * self.unsigned,
            "large" * bool(self.least_work),
            "" if self.joins else "products only",
            "attention" * self.products,
        ]
        text = ", ".join(filter(None, details))
        return f"{self.kind} ({text})" if text else self.kind

    def passes(
        self, options: QuantizeOptions, basis: Basis | None, exclude: Iterable[str]
    ) -> list[Pass]:
        """The passes, with nodes of these names left in float."""
        table = None if basis is None else basis.table
        roundings = NO_ROUNDINGS if basis is None else basis.roundings
        globs = tuple(_escape(name) for name in exclude)
        weight_type = "uint8" if self.unsigned else options.weight_type
        reduce_range = options.saturates and not self.unsigned
        dynamic = QuantizeDynamic(
            weight_type="uint8" if self.unsigned else "int8",
            per_channel=options.per_channel,
            reduce_range=reduce_range,
            op_types=("LSTM",) if self.kind == "static" else _PRODUCTS,
            exclude=globs,
            embeddings=options.embeddings,
            roundings=roundings,
        )
        ranges = self._ranges(options, basis)
        corrections: list[Pass] = []
        if table is not None and self.corrected:
            corrections.append(
                CorrectBias(
                    means=Means(table.means()),
                    weight_type=weight_type,
                    per_channel=options.per_channel,
                    reduce_range=reduce_range,
                    op_types=("MatMul", "Gemm") if self.kind == "dynamic" else _CORRECTED,
                    exclude=globs,
                    roundings=roundings,
                    ranges=ranges,
                    activation_type=options.activations,
                    symmetric=options.is_symmetric,
                )
            )
        if self.kind == "dynamic":
            return [*corrections, dynamic]
        static = InsertQdq(
            ranges=ranges,
            activation_type=options.activations,
            weight_type=weight_type,
            symmetric=options.is_symmetric,
            per_channel=options.per_channel,
            reduce_range=reduce_range,
            op_types=("Conv",) if self.kind == "mixed" else ("Conv", "Gemm", "MatMul"),
            exclude=globs,
            least_work=self.least_work,
            joins=self.joins,
            products=self.products,
            roundings=roundings,
        )
        return [*corrections, static, dynamic]

    def _ranges(self, options: QuantizeOptions, basis: Basis | None) -> Ranges:
        """Those of activations; a dynamic form has none."""
        if self.kind == "dynamic" or basis is None:
            return NO_RANGES
        if basis.ranges is not None:
            return basis.ranges
        if basis.table is None or self.method is None:
            return NO_RANGES
        encoding = Encoding(options.activations, options.is_symmetric)
        return Ranges(basis.table.ranges(self.method, encoding, percentile=options.percentile))

    def op_types(self, options: QuantizeOptions) -> frozenset[str]:
        """The operators that the passes quantize where they can."""
        passes = self.passes(options, None, ())
        return frozenset(kind for pass_ in passes for kind in getattr(pass_, "op_types", ()))

    def larger_placements(self, options: QuantizeOptions) -> tuple[Form, ...]:
        """Of a static form those with more nodes, where the target's kernels may be worth it."""
        if self.kind != "static" or not options.tries_products:
            return ()
        return (dataclasses.replace(self, products=True),)

    def smaller_placements(self) -> tuple[Form, ...]:
        """Of a static form those with fewer nodes, where conversions cost more than they win."""
        if self.kind == "dynamic":
            return ()
        return (
            dataclasses.replace(self, joins=False),
            dataclasses.replace(self, least_work=_LARGE_WORK),
        )

    def build(
        self, basis: Basis, options: QuantizeOptions, exclude: Iterable[str] = ()
    ) -> tuple[ir.Model, Counter[str], list[Refusal]]:
        """A quantized copy, what the passes that quantize did, and what they left in float."""
        result = basis.model.clone()
        rewrites: Counter[str] = Counter()
        refusals: list[Refusal] = []
        for pass_ in self.passes(options, basis, exclude):
            found = pass_.call(result)
            if not isinstance(pass_, CorrectBias):
                rewrites += found.rewrites
                refusals += found.refusals
        return result, rewrites, refusals


def forms(
    model: ir.Model, options: QuantizeOptions, *, has_ranges: bool
) -> tuple[list[Form], list[str]]:
    """The forms that make sense, and why others do not.

    Args:
        model: The float model.
        options: What the user asks for.
        has_ranges: True if ranges are known or can be.
    """
    types = {node.op_type for graph in all_graphs(model) for node in graph if not node.domain}
    products = bool(types.intersection(_PRODUCTS)) or (options.embeddings and "Gather" in types)
    notes = []
    kinds: list[Kind] = []
    if options.mode != "dynamic" and has_ranges:
        kinds.append("static")
        if "Conv" in types and products and options.mode == "auto":
            kinds.append("mixed")
    elif options.mode != "dynamic" and "Conv" in types:
        notes.append(
            "no calibration data: the ranges that Conv needs cannot be made up, so it stays in "
            "float (--calibration DATA)"
        )
    if options.mode != "static" and options.target.provider == "cpu" and products:
        kinds.append("dynamic")
    if options.mode == "dynamic" and "Conv" in types:
        notes.append("Conv stays in float: its dynamic form, ConvInteger, is slower than float")
    methods = METHODS_TRIED if options.method is None else (options.method,)
    corrects = has_ranges and options.corrects
    return [
        Form(kind, method, corrected)
        for kind in kinds
        for method in ((None,) if kind == "dynamic" else methods)
        for corrected in ((False, True) if corrects else (False,))
    ], notes


def observed_names(model: ir.Model, *, products: bool = False) -> list[str]:
    """Values of all graphs that a static form may need the range of.

    Args:
        model: The float model.
        products: Products of two activations may be quantized as well.
    """
    names: dict[str, None] = {}
    for node in (node for graph in all_graphs(model) for node in graph):
        if multiplies_activations(node) and not products:
            continue
        if part_of(node) is None and node.op_type not in ("Relu", "Clip"):
            continue
        values = [node.inputs[i] for i in activations_of(node) if i < len(node.inputs)]
        for value in (*values, node.outputs[0]):
            if value is not None and not value.is_initializer() and value.name:
                names[value.name] = None
    return list(names)


def _escape(name: str) -> str:
    """A glob that matches only this name."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)

"""How large an error may be: a small floor, or a multiple of the model's own noise.

The noise is what the original model differs from itself by when ONNX Runtime computes it in another
way. Rewriting a graph changes the order of its sums just so, and in a quantized model a single
step of rounding can grow.
"""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.runtime.comparison import Difference

# Relative to the output's scale; a few hundred roundings of the type.
_FLOORS: dict[ir.DataType, float] = {
    ir.DataType.DOUBLE: 1e-5,  # most operators on the way may be float32
    ir.DataType.FLOAT: 1e-5,
    ir.DataType.FLOAT16: 1e-3,
    ir.DataType.BFLOAT16: 8e-3,
}
# A multiple that shrinks as the noise grows: 10 roundings are little, 10 times 5 % is too much.
_LARGE_MULTIPLE = 10.0
_SMALL_MULTIPLE = 2.0
_SMALL_NOISE = 1e-4
# The gain of a few samples of noise may be small by luck: what so much noise can have as well.
_GAIN_OF_NOISE = 0.2
_DEVIATIONS = 4.0


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What is still parity.

    Attributes:
        relative: Largest error relative to the output's scale.
        rms: Root mean square of the error relative to that of the reference.
        gain: Error in the size of the whole output.
        mismatches: Share of integers, booleans or texts that may differ.
    """

    relative: float
    rms: float
    gain: float
    mismatches: float = 0.0

    def complaint(self, difference: Difference) -> str:
        """Why a difference is too large; empty if it is not."""
        if difference.broken:
            return difference.broken
        if difference.kind != "float":
            if difference.mismatches > self.mismatches:
                return f"{difference.mismatches:.2%} of its entries differ"
            return ""
        if difference.relative > self.relative:
            return f"relative error {difference.relative:.2g} over {self.relative:.2g}"
        if difference.rms > self.rms:
            return f"rms error {difference.rms:.2g} over {self.rms:.2g}"
        if difference.gain > self.gain:
            return f"size off by {difference.gain:.2g}, over {self.gain:.2g}"
        return ""


# Two steps of an 8-bit output here and there are rounding; an error in common is none.
QUANTIZED_FLOOR = Tolerance(relative=2e-2, rms=5e-3, gain=2e-3, mismatches=1e-2)


def is_quantized(model: ir.Model | None) -> bool:
    """True if some operator computes with integers in place of floats."""
    return model is not None and any(
        "Quantize" in node.op_type or node.op_type.startswith(("QLinear", "QAttention"))
        for graph in model.graphs()
        for node in graph
    )


def floor(model: ir.Model | None) -> Tolerance:
    """The tolerance of a model without noise, by the coarsest type it computes in."""
    types = {ir.DataType.FLOAT} if model is None else _types(model)
    error = max(_FLOORS[dtype] for dtype in types | {ir.DataType.FLOAT} if dtype in _FLOORS)
    return Tolerance(error, error, error)


def above_noise(base: Tolerance, noise: Difference) -> Tolerance:
    """The tolerance of an output whose reference has this noise."""
    lucky = max(_GAIN_OF_NOISE, _DEVIATIONS / math.sqrt(max(noise.elements, 1)))
    return Tolerance(
        max(base.relative, _multiple(noise.relative)),
        max(base.rms, _multiple(noise.rms)),
        max(base.gain, _multiple(noise.gain), noise.rms * lucky),
        max(base.mismatches, min(1.0, _SMALL_MULTIPLE * noise.mismatches)),
    )


def _multiple(noise: float) -> float:
    return min(
        _LARGE_MULTIPLE * noise, max(_SMALL_MULTIPLE * noise, _LARGE_MULTIPLE * _SMALL_NOISE)
    )


def _types(model: ir.Model) -> set[ir.DataType]:
    """Element types of weights, inputs, outputs and casts."""
    values = [*model.graph.inputs, *model.graph.outputs]
    types = {value.dtype for value in values}
    for graph in all_graphs(model):
        types |= {value.dtype for value in graph.initializers.values()}
        for node in graph:
            if node.op_type == "Cast" and (to := node.attributes.get("to")) is not None:
                types.add(ir.DataType(to.as_int()))
    return {dtype for dtype in types if dtype is not None}

"""How large an error may be: a small floor, or a multiple of the model's own noise.

The noise is what the original model differs from itself by when ONNX Runtime computes it in another
way. Rewriting a graph changes the order of its sums just so, and in a quantized model a single
step of rounding can grow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.slice_errors import like

# Relative to the output's scale; a few hundred roundings of the type.
_FLOORS: dict[ir.DataType, float] = {
    ir.DataType.DOUBLE: 1e-5,  # most operators on the way may be float32
    ir.DataType.FLOAT: 1e-5,
    ir.DataType.FLOAT16: 1e-3,
    ir.DataType.BFLOAT16: 8e-3,
}
# An error that is mostly one in common, such as that of a wrong epsilon, is no rounding: a mean
# over many roundings is smaller than each of them.
_GAIN_FLOOR = 0.2
_IN_COMMON = 0.5
# A multiple that shrinks as the noise grows: 10 roundings are little, 10 times 5 % is too much.
_LARGE_MULTIPLE = 10.0
_SMALL_MULTIPLE = 2.0
_SMALL_NOISE = 1e-4
# The gain of a few samples of noise may be small by luck: what so much noise can have as well.
_GAIN_OF_NOISE = 0.2
_DEVIATIONS = 4.0
# So many rows may have another top entry by luck, whatever the noise did.
_LUCKY_FLIPS = 3.0


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What is still parity.

    Attributes:
        relative: Largest error relative to the output's scale.
        rms: Root mean square of the error relative to that of the reference.
        gain: Error in the size of the whole output.
        mismatches: Share of integers, booleans or texts that may differ.
        slice: Largest error of a column, channel or row relative to its own size (the worst
            of them has the SQNR -20 log10 of it); None if slices are not judged.
        noise: What slices of each order of magnitude differ by in the reference itself.
        flips: Share of rows whose largest entry may be at another place; None if not judged.
    """

    relative: float
    rms: float
    gain: float
    mismatches: float = 0.0
    slice: float | None = None
    noise: Mapping[int, float] = dataclasses.field(default_factory=dict)
    flips: float | None = None

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
        limit = self.gain
        if difference.gain < _IN_COMMON * difference.rms and self.slice is not None:
            limit = max(limit, self.slice)
        if difference.gain > limit:
            return f"size off by {difference.gain:.2g}, over {limit:.2g}"
        return self._complaint_of_slices(difference) or self._complaint_of_top(difference)

    def _complaint_of_slices(self, difference: Difference) -> str:
        if self.slice is None:
            return ""
        for magnitude, error in sorted(difference.slices.items(), reverse=True):
            limit = max(self.slice, _multiple(like(self.noise, magnitude)))
            if error > limit:
                return (
                    f"error {error:.2g} over {limit:.2g} in a column, channel or row of size "
                    f"1e{magnitude:+d}"
                )
        return ""

    def _complaint_of_top(self, difference: Difference) -> str:
        if self.flips is None or difference.flips <= self.flips * difference.rows + _LUCKY_FLIPS:
            return ""
        return (
            f"the largest entry is another one in {difference.flips / difference.rows:.1%} of the "
            f"rows, over {self.flips:.1%}"
        )


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
    return Tolerance(error, error, _GAIN_FLOOR * error, slice=error)


def above_noise(base: Tolerance, noise: Difference) -> Tolerance:
    """The tolerance of an output whose reference has this noise."""
    lucky = max(_GAIN_OF_NOISE, _DEVIATIONS / math.sqrt(max(noise.elements, 1)))
    return Tolerance(
        max(base.relative, _multiple(noise.relative)),
        max(base.rms, _multiple(noise.rms)),
        max(base.gain, _multiple(noise.gain), noise.rms * lucky),
        max(base.mismatches, min(1.0, _SMALL_MULTIPLE * noise.mismatches)),
        base.slice,
        noise.slices,
        None if noise.top1 is None else _SMALL_MULTIPLE * (1 - noise.top1),
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

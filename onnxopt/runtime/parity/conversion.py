"""Whether a model is another one in fewer bits, and how large an error is usual then.

The rules of thumb: a type with p bits of precision rounds with a relative error of about 2^-p, and
some dozens of layers add that up. They are budgets to start from, not promises: `--budget` replaces
them.
"""

from __future__ import annotations

import dataclasses
import math
import re

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.walking import all_graphs

# These hand a value on in another type.
CONVERSIONS = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast"))
# From this share of the weights or nodes on, fewer bits are what the model was rewritten for.
_SHARE = 0.1
_NUMBER = re.compile(r"([0-9.]+(?:e-?\d+)?)\s*(%|db)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Fewer bits than the original has.

    Attributes:
        what: In words, as "float16" or "8 bits".
        budget: Root mean square that an output's error usually stays below, relative to the output.
        part: What one part of the model may add, likewise.
    """

    what: str
    budget: float
    part: float


_FLOAT16 = Conversion("float16", 0.01, 4e-3)
_BFLOAT16 = Conversion("bfloat16", 0.05, 3e-2)
_EIGHT_BITS = Conversion("8 bits", 0.1, 3e-2)
_FOUR_BITS = Conversion("4 bits", 0.25, 0.15)
_OF_TYPE = {
    ir.DataType.FLOAT16: _FLOAT16,
    ir.DataType.BFLOAT16: _BFLOAT16,
    ir.DataType.FLOAT8E4M3FN: _EIGHT_BITS,
    ir.DataType.FLOAT8E4M3FNUZ: _EIGHT_BITS,
    ir.DataType.FLOAT8E5M2: _EIGHT_BITS,
    ir.DataType.FLOAT8E5M2FNUZ: _EIGHT_BITS,
    ir.DataType.INT8: _EIGHT_BITS,
    ir.DataType.UINT8: _EIGHT_BITS,
    ir.DataType.INT4: _FOUR_BITS,
    ir.DataType.UINT4: _FOUR_BITS,
}
_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def find_conversion(original: ir.Model, rewritten: ir.Model) -> Conversion | None:
    """What `rewritten` was converted to; None if it has the original's types."""
    before, after = _elements(original), _elements(rewritten)
    wide = sum(before.get(dtype, 0) for dtype in _WIDE)
    found: dict[Conversion, int] = {}
    for dtype, conversion in _OF_TYPE.items():
        more = after.get(dtype, 0) - before.get(dtype, 0)
        found[conversion] = found.get(conversion, 0) + max(more, 0)
    # MatMulNBits packs several weights into a byte.
    packed = _packed(rewritten) - _packed(original)
    found[_EIGHT_BITS] -= min(packed, found[_EIGHT_BITS])
    found[_FOUR_BITS] += 2 * packed
    chosen = [one for one, count in found.items() if count and count >= _SHARE * wide]
    # Weights that are computed, as by a Transpose, are quantized when the model runs.
    steps = _count(rewritten, "QuantizeLinear") - _count(original, "QuantizeLinear")
    if steps > _SHARE * _count(original, ""):
        chosen.append(_EIGHT_BITS)
    return max(chosen, key=lambda one: one.budget, default=None) if wide else None


def parse_budget(text: str) -> float:
    """Reads `0.01`, `1%` or `40dB` as a relative root mean square.

    Raises:
        InvalidInputError: It is none of them, or no positive number.
    """
    match = _NUMBER.fullmatch(text.strip())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise InvalidInputError(
            f"budget {text!r}: write a relative error (0.01 or 1%) or an SQNR in decibels (40dB)"
        )
    unit = (match[2] or "").lower()
    return 10 ** (-number / 20) if unit == "db" else number / (100 if unit == "%" else 1)


def decibels(error: float) -> float:
    """The SQNR of a relative root mean square."""
    return -20 * math.log10(error) if error > 0 else math.inf


def _elements(model: ir.Model) -> dict[ir.DataType, int]:
    counts: dict[ir.DataType, int] = {}
    for graph in all_graphs(model):
        tensors = [value.const_value for value in graph.initializers.values()]
        tensors += [
            attribute.as_tensor()
            for node in graph
            if node.op_type == "Constant"
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref()
        ]
        for tensor in tensors:
            if tensor is not None:
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.size
    return counts


def _count(model: ir.Model, op_type: str) -> int:
    """Nodes of an operator; all if it is empty."""
    return sum(
        not op_type or node.op_type == op_type for graph in all_graphs(model) for node in graph
    )


def _packed(model: ir.Model) -> int:
    """Bytes of weights in fewer than eight bits that are stored as bytes."""
    total = 0
    for graph in all_graphs(model):
        for node in graph:
            bits = node.attributes.get("bits")
            if node.op_type in ("MatMulNBits", "GatherBlockQuantized") and bits is not None:
                tensors = [v.const_value for v in node.inputs if v is not None]
                if bits.as_int() < 8:
                    total += sum(
                        t.size for t in tensors if t is not None and t.dtype == ir.DataType.UINT8
                    )
    return total

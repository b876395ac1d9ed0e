"""What fewer bits do to the values of a part: ranges that are too small or too large, steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import constant
from onnxopt.runtime.diagnosis.regions import Region, described

# Less of the values outside of the range, or more of the range in use, is as it should be.
CLIPS = "clips:"
_MANY_OUTSIDE = 1e-3
_LITTLE_USED = 0.25
# Steps that lose less than this are not worth a line.
_COARSE = 2e-3
_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
_MANY_TINY = 0.01


def rounding_causes(region: Region, values: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """What QuantizeLinear nodes and float16 do to values, in sentences.

    Args:
        region: The nodes.
        values: The original's values, by their names in the region.
    """
    result = values.get(region.value.name or "")
    for node in region.nodes:
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
            # What a range does in place of a Relu or Clip is meant: what these gave counts.
            is_result = region.value in _dequantized(node)
            x = values.get(node.inputs[0].name or "")
            x = result if is_result and result is not None else x
            if x is not None and x.dtype.kind == "f" and x.size:
                yield from _quantization(node, x)
    if result is not None and region.value.dtype == ir.DataType.FLOAT16:
        yield from _underflow(result)


def _dequantized(node: ir.Node) -> list[ir.Value]:
    readers = node.outputs[0].consumers()
    return [user.outputs[0] for user in readers if user.op_type == "DequantizeLinear"]


def _quantization(node: ir.Node, x: NDArray[Any]) -> Iterator[str]:
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    # float8 has no steps of one size; per-channel activations are rare.
    if scale is None or zero is None or scale.size != 1 or zero.dtype.kind not in "iu":
        return
    limits = np.iinfo(zero.dtype)
    step, offset = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    low, high = (limits.min - offset) * step, (limits.max - offset) * step
    outside = float(((x > high + step / 2) | (x < low - step / 2)).mean())
    used = (min(float(x.max()), high) - max(float(x.min()), low)) / (high - low)
    size = float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    rounded = step * np.rint(np.clip(x, low, high) / step)
    lost = float(np.sqrt(np.mean(np.square(rounded - np.clip(x, low, high)))))
    if outside > _MANY_OUTSIDE:
        yield (
            f"{described(node)} {CLIPS} {outside:.1%} of its values lie outside of "
            f"[{low:.4g}, {high:.4g}]; they reach from {float(x.min()):.4g} to {float(x.max()):.4g}"
        )
    elif 0 <= used < _LITTLE_USED:
        yield (
            f"{described(node)}: values from {float(x.min()):.4g} to {float(x.max()):.4g} use "
            f"only {used:.0%} of its range [{low:.4g}, {high:.4g}]"
        )
    elif size and lost / size > _COARSE:
        yield f"{described(node)}: steps of {step:.3g} ({zero.dtype}) lose {lost / size:.1%}"


def _underflow(original: NDArray[Any]) -> Iterator[str]:
    if original.dtype not in (np.float32, np.float64) or not original.size:
        return
    tiny = (np.abs(original) < _SMALLEST_NORMAL) & (original != 0)
    share = float(tiny.mean())
    if share > _MANY_TINY:
        yield (
            f"underflow: {share:.1%} of the values are below {_SMALLEST_NORMAL:.1e}, the smallest "
            "that float16 keeps at full precision"
        )

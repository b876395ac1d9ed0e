"""Where onnx's reference operators compute something else than ONNX Runtime does.

Both are within the specification or close to it; but a folded model must give what the model gave,
so a node on such inputs is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.values import int_attribute

Array = NDArray[Any]
Inputs = Sequence[Array | None]


def disagreement(node: ir.Node, inputs: Inputs) -> str | None:
    """What about the inputs makes the reference differ from ONNX Runtime; None if nothing does.

    Args:
        node: A node of the default domain whose operator is evaluated.
        inputs: One array for each input, None where it is omitted.
    """
    check = _CHECKS.get(node.op_type)
    return None if check is None else check(node, inputs)


def _has(inputs: Inputs, index: int) -> bool:
    return index < len(inputs) and inputs[index] is not None


def _not_a_number(node: ir.Node, inputs: Inputs) -> str | None:
    """Maxima and minima with NaN: NumPy gives NaN, ONNX Runtime what it happens to meet."""
    data = inputs[0]
    return "the input holds NaN" if data is not None and np.isnan(data).any() else None


def _not_finite(node: ir.Node, inputs: Inputs) -> str | None:
    data = inputs[0]
    if data is None or np.isfinite(data).all():
        return None
    return "the input holds NaN or an infinity"


def _sign(node: ir.Node, inputs: Inputs) -> str | None:
    """ONNX Runtime gives 0 for NaN in half precision only."""
    data = inputs[0]
    return _not_a_number(node, inputs) if data is not None and data.itemsize == 2 else None


def _clip(node: ir.Node, inputs: Inputs) -> str | None:
    """A bound that is left out is the largest finite number in ONNX Runtime."""
    if any(bound is not None and np.isnan(bound).any() for bound in inputs[1:]):
        return "a bound is NaN"
    bounds = [_has(inputs, i) or name in node.attributes for i, name in ((1, "min"), (2, "max"))]
    return None if all(bounds) else _not_finite(node, inputs)


def _mean(node: ir.Node, inputs: Inputs) -> str | None:
    return "the input is empty" if inputs[0] is not None and not inputs[0].size else None


def _non_zero(node: ir.Node, inputs: Inputs) -> str | None:
    return "the input is a scalar" if inputs[0] is not None and not inputs[0].ndim else None


def _top_k(node: ir.Node, inputs: Inputs) -> str | None:
    return None if int_attribute(node, "sorted", 1) else "the order is not specified"


def _resize(node: ir.Node, inputs: Inputs) -> str | None:
    """Sampling positions are rounded differently unless every scale is an integer."""
    data = inputs[0]
    special = ("antialias", "axes", "keep_aspect_ratio_policy")
    if data is None or any(name in node.attributes for name in special):
        return "the reference resizes differently"
    # Data and scales before opset 11; then data, region, scales and sizes.
    scales = inputs[min(2, len(inputs) - 1)]
    sizes = inputs[3] if _has(inputs, 3) else None
    if sizes is not None:
        if sizes.shape != (data.ndim,) or not data.size:
            return "the sizes do not fit the input"
        scales = sizes / np.array(data.shape)
    if scales is None or not np.array_equal(scales, np.rint(scales)):
        return "a scale is not an integer"
    return None


_CHECKS: dict[str, Callable[[ir.Node, Inputs], str | None]] = {
    "ArgMax": _not_a_number,
    "ArgMin": _not_a_number,
    "Clip": _clip,
    "LogSoftmax": _not_finite,
    "NonZero": _non_zero,
    "QuantizeLinear": _not_finite,
    "ReduceMax": _not_a_number,
    "ReduceMean": _mean,
    "ReduceMin": _not_a_number,
    "Resize": _resize,
    "Sign": _sign,
    "TopK": _top_k,
}

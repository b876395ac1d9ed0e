"""Constant scales for a Resize whose sizes are computed only because the batch is dynamic.

    Resize(x[N, 3, 14, 14], sizes=[N, 3, 28, 28])  =>  Resize(x, scales=[1, 1, 2, 2])

Scales and sizes give the same sampling positions where every scale is exact in float32.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx_ir as ir

from onnxopt.graph.inference import Inference

_SIZES = 3


def resize_scales(inference: Inference, node: ir.Node) -> tuple[float, ...] | str | None:
    """The scales, why there are none, or None if the node does not compute its sizes."""
    if node.domain or node.op_type != "Resize" or len(node.inputs) <= _SIZES:
        return None
    data, computed = node.inputs[0], node.inputs[_SIZES]
    if data is None or computed is None or computed in inference.constants:
        return None
    if any(name in node.attributes for name in ("axes", "keep_aspect_ratio_policy")):
        return None
    dims, sizes = inference.dims(data), inference.elements(computed)
    if dims is None or sizes is None or len(sizes) != len(dims):
        return None
    scales: list[float] = []
    for dim, size in zip(dims, sizes, strict=True):
        if dim == size:
            scales.append(1.0)
        elif not isinstance(dim, int) or not isinstance(size, int) or not dim:
            return "the new size depends on the input's size"
        elif Fraction(float(np.float32(size / dim))) == Fraction(size, dim):
            scales.append(size / dim)
        else:
            return "the scale is not exact in float32"
    return tuple(scales)

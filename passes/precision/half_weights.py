"""Constants in float16 or bfloat16: their range, what becomes of masks, and lazy conversion."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.graph.mapped import tensor_chunks

LARGEST_FLOAT16 = 65504.0
LEAST_FLOAT16 = 2.0**-24  # the smallest positive one, with a single digit
_SMALLEST_FLOAT16 = 6.1e-5  # below it, fewer and fewer digits are left
# What is added to a score to rule it out. In float16 it has to be finite, also if two add up.
_MASKED, MASK = -1e9, -3e4
_SCALARS = 16
_LAZY_BYTES = 1 << 24


def constant_reason(tensor: ir.TensorProtocol, to: ir.DataType) -> str:
    """Why a constant cannot become half, or "".

    Large negative numbers are masks, which become -30000.
    """
    if to != ir.DataType.FLOAT16:
        return ""
    for chunk in tensor_chunks(tensor):
        finite = chunk[np.isfinite(chunk)]
        large = finite[np.abs(finite) > LARGEST_FLOAT16]
        if (large > _MASKED).any():
            return "a constant is beyond the range of float16"
        if tensor.size <= _SCALARS:
            small = np.abs(finite[finite != 0])
            if (small < _SMALLEST_FLOAT16).any():
                return "a constant is too close to zero for float16"
    return ""


def half_tensor(tensor: ir.TensorProtocol, to: ir.DataType, name: str) -> ir.TensorProtocol:
    """The tensor in another type; a large one is converted whenever it is read."""

    def compute() -> ir.TensorProtocol:
        result = np.empty(tensor.size, to.numpy())
        start = 0
        for chunk in tensor_chunks(tensor):
            if to == ir.DataType.FLOAT16:
                masks = (chunk <= _MASKED) & np.isfinite(chunk)
                chunk = np.where(masks, np.float32(MASK), chunk) if masks.any() else chunk
            with np.errstate(over="ignore"):
                result[start : start + chunk.size] = chunk.astype(to.numpy())
            start += chunk.size
        return ir.Tensor(result.reshape(tensor.shape.numpy()), dtype=to, name=name)

    if tensor.nbytes <= _LAZY_BYTES:
        return compute()
    return ir.LazyTensor(compute, dtype=to, shape=ir.Shape(tensor.shape.numpy()), name=name)

"""Arrays of types that NumPy lacks, such as bfloat16, to ONNX Runtime and back."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxopt.runtime.library import load_runtime

# NumPy has no such types of its own, and ONNX Runtime's bindings only take NumPy's own.
FOREIGN_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(float8e4m3fn)": np.dtype(ml_dtypes.float8_e4m3fn),
    "tensor(float8e5m2)": np.dtype(ml_dtypes.float8_e5m2),
}


def as_ort_value(array: Any) -> Any:
    """An array as an `OrtValue` of its ONNX type."""
    runtime = load_runtime()
    array = np.ascontiguousarray(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    if array.dtype.kind == "V":
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, dtype.value)


def from_ort_value(value: Any) -> Any:
    """An `OrtValue` as an array that owns its memory."""
    dtype = FOREIGN_TYPES.get(value.data_type())
    if dtype is None:
        return value.numpy()
    shape = tuple(value.shape())
    size = int(np.prod(shape)) * dtype.itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    # The memory belongs to the OrtValue: copy it.
    return np.frombuffer(ctypes.string_at(value.data_ptr(), size), dtype).reshape(shape)

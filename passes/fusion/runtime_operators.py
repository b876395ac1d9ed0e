"""What rewrites into operators of ONNX Runtime share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.values import constant, dims

DOMAIN = "com.microsoft"

# What the kernels for CUDA take; on a CPU, ONNX Runtime casts half precision for those without it.
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def check_operators(pass_name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Checks an option that lists operators.

    Raises:
        InvalidInputError: One of them is none of those that the pass can use.
    """
    for operator in given:
        if operator not in known:
            raise InvalidInputError(f"{pass_name}: {operator!r} is none of {', '.join(known)}")


def is_constant_vector(value: ir.Value | None, size: int | str | None) -> bool:
    """True for a constant with `size` elements on its only axis."""
    shape = dims(value)
    return isinstance(size, int) and shape == (size,) and constant(value) is not None

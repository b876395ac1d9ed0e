"""Does a TensorProto hold the data that it declares? Checked before anything is allocated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError

if TYPE_CHECKING:
    from onnx import TensorProto

_DTYPES: Final = {dtype.value: dtype for dtype in ir.DataType if dtype.value}
_EXTERNAL = 1  # TensorProto.DataLocation
# More bytes than any machine addresses: the arithmetic of every consumer would overflow.
_MOST_BYTES = 1 << 60
# A tensor without elements costs nothing, but what is computed along its other axes does.
_MOST_BESIDE_NOTHING = 1 << 24

# Field of TensorProto -> types that may use it, with the number of entries per element.
_TYPED_FIELDS: Final[dict[str, dict[str, float]]] = {
    "float_data": {"FLOAT": 1, "COMPLEX64": 2},
    "double_data": {"DOUBLE": 1, "COMPLEX128": 2},
    "int64_data": {"INT64": 1},
    "uint64_data": {"UINT64": 1, "UINT32": 1},
    "int32_data": {
        **dict.fromkeys(("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL"), 1),
        **dict.fromkeys(("FLOAT16", "BFLOAT16", "FLOAT6E2M3", "FLOAT6E3M2", "FLOAT8E8M0"), 1),
        **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 1),
        **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 1 / 2),
        **dict.fromkeys(("INT2", "UINT2"), 1 / 4),
    },
}


def is_external(tensor: TensorProto) -> bool:
    """True if the data is in another file."""
    return tensor.data_location == _EXTERNAL


def tensor_dtype(tensor: TensorProto, where: str) -> ir.DataType:
    """The element type.

    Raises:
        InvalidModelError: There is no such type.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise InvalidModelError(f"{where} has the unknown element type {tensor.data_type}")
    return dtype


def tensor_dims(tensor: TensorProto, where: str) -> tuple[int, ...]:
    """The dimensions.

    Raises:
        InvalidModelError: They cannot be those of a tensor.
    """
    dims = tuple(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise InvalidModelError(f"{where} has a negative dimension: {list(dims)}")
    most = _MOST_BYTES // 16 if all(dims) else _MOST_BESIDE_NOTHING
    if math.prod(dim or 1 for dim in dims) > most:
        raise InvalidModelError(f"{where} declares impossibly many elements: {list(dims)}")
    return dims


def check_tensor(tensor: TensorProto, where: str, cut_bytes: int | None = None) -> None:
    """Checks that type, dimensions and the amount of data agree.

    Args:
        tensor: A tensor whose data is in the model file.
        where: What to call it in a message.
        cut_bytes: Length of the raw data if it was cut out of the message.

    Raises:
        InvalidModelError: They do not.
    """
    dtype, dims = tensor_dtype(tensor, where), tensor_dims(tensor, where)
    size = math.prod(dims)
    declared = f"{where} is declared as {dtype.name}{list(dims)}"
    if dtype == ir.DataType.STRING:
        if cut_bytes is not None or tensor.HasField("raw_data"):
            raise InvalidModelError(f"{declared} but holds raw data")
        if len(tensor.string_data) != size:
            raise InvalidModelError(f"{declared} but holds {len(tensor.string_data)} strings")
        return
    if cut_bytes is not None or tensor.HasField("raw_data"):
        found = len(tensor.raw_data) if cut_bytes is None else cut_bytes
        wanted = (size * dtype.bitwidth + 7) // 8
        if found != wanted:
            raise InvalidModelError(f"{declared}, {wanted} bytes, but holds {found} bytes")
        return
    for field, types in _TYPED_FIELDS.items():
        found = len(getattr(tensor, field))
        if not found:
            continue
        if dtype.name not in types:
            raise InvalidModelError(f"{declared} but holds {field}")
        if found != math.ceil(size * types[dtype.name]):
            raise InvalidModelError(f"{declared} but holds {found} numbers of {field}")
        return
    if size:
        raise InvalidModelError(f"{declared} but holds no data")

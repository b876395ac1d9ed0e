"""Arrays in a .npz of our own, written reproducibly and read without trust.

A type that NumPy lacks, as bfloat16, is stored as unsigned integers of its size, and named in an
entry of its own.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

# More than anything that `write_arrays` is given.
MOST_BYTES = 1 << 30
_MOST_HEADER = 4096
_TYPES = "types.json"
_MOMENT = (1980, 1, 1, 0, 0, 0)
_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
    zlib.error, lzma.LZMAError,
)  # fmt: skip


def can_be_written(array: Any) -> bool:
    """False for sequences, maps and missing values."""
    return isinstance(array, (np.ndarray, np.generic))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays so that the same ones give the same bytes.

    Args:
        path: The file.
        arrays: Name to array; texts may be objects.
    """
    foreign: dict[str, str] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        # Names of values may hold anything: members are numbered, the names are in the table.
        for number, (name, array) in enumerate(arrays.items()):
            plain, dtype = _as_plain(np.asarray(array))
            foreign[name] = dtype
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, plain, allow_pickle=False)
            archive.writestr(_member(f"{number}.npy"), buffer.getvalue())
        archive.writestr(_member(_TYPES), json.dumps(foreign))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads arrays that `write_arrays` wrote.

    Raises:
        InvalidInputError: The file is damaged, or larger than any that was written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > MOST_BYTES:
                raise InvalidInputError(f"{path}: {size} bytes of arrays are too many")
            table = json.loads(archive.read(_TYPES))
            return {
                str(name): _as_typed(_read(archive, f"{number}.npy"), str(dtype))
                for number, (name, dtype) in enumerate(dict(table).items())
            }
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"{path} is damaged: {reason[:200]}") from error


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _MOMENT)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _read(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    """One array; its header cannot make NumPy take more memory than the member has."""
    data = archive.read(member)
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"array of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MOST_HEADER)
    count = 1
    for dim in shape:
        count *= dim
    if dtype.hasobject or count * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{member} does not hold what its header says")
    stream.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _as_plain(array: NDArray[Any]) -> tuple[NDArray[Any], str]:
    if array.dtype.kind == "O":
        return array.astype(np.str_), "object"
    if array.dtype.kind == "V" or array.dtype.name not in np.sctypeDict:
        return array.view(np.dtype(f"u{array.dtype.itemsize}")), array.dtype.name
    return array, ""


def _as_typed(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if not dtype:
        return array
    if dtype == "object":
        return array.astype(object)
    kind = getattr(ml_dtypes, dtype, None)
    if not isinstance(kind, type):
        raise ValueError(f"type {dtype[:40]!r}")
    return array.view(np.dtype(kind))

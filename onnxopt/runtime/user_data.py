"""The user's own inputs: arrays by input name, .npz files, or several of these."""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

_NPY = b"\x93NUMPY"
# What a damaged file, or one with Python objects in it, is found out by.
_DAMAGED = (
    *(ValueError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass(frozen=True)
class UserData:
    """The user's arrays for one run.

    Attributes:
        arrays: Input name to array, of the declared element type.
        source: Where it comes from, in words.
    """

    arrays: Mapping[str, NDArray[Any]]
    source: str


def read_user_data(data: Any, inputs: Mapping[str, ir.Value]) -> tuple[UserData, ...]:
    """Reads and checks the user's data; empty for None.

    Args:
        data: None, input name to array, the path of a .npz file or, for a model with one input, of
            a .npy file, or a sequence of these.
        inputs: The model's inputs by name.

    Raises:
        InvalidInputError: A file cannot be read, or an array fits no input.
    """
    if data is None:
        return ()
    if isinstance(data, Mapping):
        return (_checked(data, inputs, "given data"),)
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        return (_checked(_read_file(path, inputs), inputs, path.name),)
    if isinstance(data, Sequence):
        return tuple(item for one in data for item in read_user_data(one, inputs))
    raise InvalidInputError(
        f"inputs are arrays by name or the path of a .npz file, not {type(data).__name__}"
    )


def _read_file(path: Path, inputs: Mapping[str, ir.Value]) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise InvalidInputError(f"{path} does not exist or is not a regular file")
        with path.open("rb") as file:
            single = file.read(len(_NPY)) == _NPY
        if not single and not zipfile.is_zipfile(path):
            raise InvalidInputError(
                f"{path} is not a .npz file; write one with numpy.savez(path, name=array, ...)"
            )
        if single and len(inputs) != 1:
            raise InvalidInputError(
                f"{path} holds one array, but the model has {len(inputs)} inputs; write a .npz "
                "file with numpy.savez(path, name=array, ...)"
            )
        loaded = np.load(path, allow_pickle=False)  # pickles can run code
        if single:
            return {next(iter(inputs)): loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInputError(f"{path}: cannot read the arrays: {reason}") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInputError(f"{path}: cannot read the arrays: {reason[:200]}") from error


def _checked(data: Mapping[str, Any], inputs: Mapping[str, ir.Value], source: str) -> UserData:
    unknown = [name for name in data if name not in inputs]
    if unknown:
        raise InvalidInputError(
            f"{source}: no input is named {unknown[0]!r}; the inputs are {', '.join(inputs)}"
        )
    return UserData({name: _fit(array, inputs[name]) for name, array in data.items()}, source)


def _fit(array: Any, value: ir.Value) -> Any:
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return array  # a sequence or an optional: ONNX Runtime judges it
    array = np.asarray(array)
    if value.dtype == ir.DataType.STRING:
        return array.astype(object)
    wanted = value.dtype.numpy()
    if array.dtype != wanted:
        # NumPy makes float64 and int64 of everything; that is no mistake of the user's.
        same_family = (
            array.dtype.kind == wanted.kind or wanted.kind == "V" or array.dtype.kind == "V"
        )
        signs = array.dtype.kind in "iu" and wanted.kind in "iu"
        if not (same_family or signs):
            raise InvalidInputError(
                f"input {value.name!r} is {value.dtype}, the data for it {array.dtype}"
            )
        array = array.astype(wanted)
    _check_shape(array, value)
    return array


def _check_shape(array: NDArray[Any], value: ir.Value) -> None:
    shape = value.shape
    if shape is None:
        return
    fits = len(shape) == array.ndim and all(
        not isinstance(dim, int) or dim in (size, -1, 0)
        for dim, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInputError(
            f"input {value.name!r} has the shape {shape}, the data for it {list(array.shape)}"
        )

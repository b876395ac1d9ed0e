"""The user's own inputs: arrays by name, files, folders of files, or a function that yields them.

Files are read when a run needs them and not kept, so that thousands of samples cost no memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.user_file import read_file
from onnxopt.runtime.inputs.user_files import read_files
from onnxopt.runtime.inputs.user_functions import call_data_function, find_function, names_function

# To these NaN means a missing value.
_TAKE_NAN = frozenset({"Imputer", "IsNaN", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


@dataclasses.dataclass(frozen=True)
class UserData:
    """The user's arrays for one run.

    Attributes:
        arrays: Input name to array, of the declared element type.
        source: Where it comes from, in words.
    """

    arrays: Mapping[str, NDArray[Any]]
    source: str


class _Fitted(Mapping[str, Any]):
    """Arrays that are read and brought to the type of their inputs when asked for."""

    def __init__(
        self, data: Mapping[str, Any], inputs: Mapping[str, ir.Value], source: str
    ) -> None:
        self._data, self._inputs, self._source = data, inputs, source

    def __getitem__(self, name: str) -> Any:
        return _fit(self._data[name], self._inputs[name], self._source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def read_user_data(data: Any, inputs: Mapping[str, ir.Value]) -> tuple[UserData, ...]:
    """Reads and checks the user's data; empty for None.

    Args:
        data: None; input name to array; the path of a .npz file or of a folder of .npz or .npy
            files; "module:function" or "file.py:function", or a function itself, that returns or
            yields arrays by name; `UserData`, to be checked; or a sequence of these.
        inputs: The model's inputs by name.

    Raises:
        InvalidInputError: A file cannot be read, a function cannot be found or fails, or an array
            fits no input.
    """
    if data is None:
        return ()
    if isinstance(data, Mapping):
        return (_checked(data, inputs, "given data"),)
    if isinstance(data, UserData):
        return (_checked(data.arrays, inputs, data.source),)
    if isinstance(data, (str, os.PathLike)):
        text = os.fspath(data)
        if names_function(text):
            return _from_function(find_function(text), inputs, text)
        path = Path(text)
        if path.is_dir():
            return tuple(_checked(arrays, inputs, source) for source, arrays in read_files(path))
        return (_checked(read_file(path, inputs), inputs, path.name),)
    if callable(data):
        return _from_function(data, inputs, getattr(data, "__name__", "the function"))
    if isinstance(data, Sequence):
        return tuple(item for one in data for item in read_user_data(one, inputs))
    raise InvalidInputError(
        "inputs are arrays by name, a .npz file, a folder or a function that yields arrays by "
        f"name, not {type(data).__name__}"
    )


def _from_function(
    function: Callable[[], Any], inputs: Mapping[str, ir.Value], source: str
) -> tuple[UserData, ...]:
    return tuple(
        _checked(arrays, inputs, f"{source} #{index}")
        for index, arrays in enumerate(call_data_function(function, source))
    )


def _checked(data: Mapping[str, Any], inputs: Mapping[str, ir.Value], source: str) -> UserData:
    if not data and inputs:
        raise InvalidInputError(f"{source}: holds no arrays; the inputs are {', '.join(inputs)}")
    unknown = [name for name in data if name not in inputs]
    if unknown:
        raise InvalidInputError(
            f"{source}: no input is named {unknown[0]!r}; the inputs are {', '.join(inputs)}"
        )
    fitted = _Fitted(data, inputs, source)
    for name in fitted:
        fitted[name]  # every array is looked at once before anything runs
    return UserData(fitted, source)


def _fit(array: Any, value: ir.Value, source: str) -> Any:
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return array  # a sequence or an optional: ONNX Runtime judges it
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise InvalidInputError(f"{source}: input {value.name!r} is no array: {error}") from error
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
                f"{source}: input {value.name!r} is {value.dtype}, the data for it {array.dtype}"
            )
        array = array.astype(wanted)
    _check_shape(array, value, source)
    _check_numbers(array, value, source)
    return array


def _check_shape(array: NDArray[Any], value: ir.Value, source: str) -> None:
    shape = value.shape
    if shape is None:
        return
    fits = len(shape) == array.ndim and all(
        not isinstance(dim, int) or dim in (size, -1, 0)
        for dim, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidInputError(
            f"{source}: input {value.name!r} has the shape {shape}, the data for it "
            f"{list(array.shape)}"
        )


def _check_numbers(array: NDArray[Any], value: ir.Value, source: str) -> None:
    """Everything is at parity with NaN, so that nothing would be shown."""
    if array.dtype.kind != "f" or not np.isnan(array).any():
        return
    if not any(node.op_type in _TAKE_NAN for node, _ in value.uses()):
        count = int(np.isnan(array).sum())
        raise InvalidInputError(
            f"{source}: the data for input {value.name!r} holds {count} NaN; leave these samples "
            "out or fill the values in"
        )

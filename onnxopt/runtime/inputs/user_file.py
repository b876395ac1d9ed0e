"""One file of arrays: a .npz, or a .npy for a model with one input."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError

_NPY = b"\x93NUMPY"
# What a damaged file, or one with Python objects in it, is found out by.
_DAMAGED = (
    *(ValueError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def read_file(path: Path, inputs: Mapping[str, ir.Value]) -> dict[str, Any]:
    """The arrays of a .npz file, or the one of a .npy file for a model with one input.

    Raises:
        InvalidInputError: The file is of another kind or damaged; the message says which.
    """
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

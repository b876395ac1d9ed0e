"""Functions that the user names: `module:function` or `file.py:function`. Naming one runs it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.user_files import NpzFile

# What a function yields beyond this goes to a temporary folder.
_MOST_BYTES_IN_MEMORY = 64 << 20


def names_function(text: str) -> bool:
    """True for `module:function` and `file.py:function`, not for paths (a drive's colon too)."""
    module, separator, function = text.rpartition(":")
    return bool(separator) and len(module) > 1 and function.isidentifier()


def find_function(text: str) -> Callable[..., Any]:
    """Imports a function; a module is looked for in the working directory as well.

    Raises:
        InvalidInputError: There is no such module or function.
    """
    place, _, name = text.rpartition(":")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise InvalidInputError(f"{text}: cannot import {place}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInputError(f"{text}: {place} has no function {name!r}")
    result: Callable[..., Any] = function
    return result


def call_data_function(function: Callable[[], Any], source: str) -> Iterator[Mapping[str, Any]]:
    """The input sets that a function returns or yields.

    Raises:
        InvalidInputError: It fails, or gives something else than arrays by name.
    """
    spool = _Spool()
    found = 0
    try:
        given = function()
        for one in [given] if isinstance(given, Mapping) else given:
            if not isinstance(one, Mapping):
                raise InvalidInputError(
                    f"{source}: has to yield dicts of arrays by input name, not "
                    f"{type(one).__name__}"
                )
            found += 1
            yield spool.keep(one)
    except USER_ERRORS as error:
        raise InvalidInputError(f"{source}: failed: {type(error).__name__}: {error}") from error
    if not found:
        raise InvalidInputError(f"{source}: yields no inputs")


# What code of the user's may raise; what ends the process goes on.
USER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError),
    *(LookupError, MemoryError, NameError, OSError, RuntimeError, TypeError, ValueError),
)


class _Spool:
    """Keeps arrays in memory up to a limit, and in temporary files beyond it."""

    def __init__(self) -> None:
        self._bytes = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def keep(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        plain = {
            name: array if isinstance(array, (list, tuple)) else np.asarray(array)
            for name, array in arrays.items()
        }
        size = sum(getattr(array, "nbytes", 0) for array in plain.values())
        storable = all(
            getattr(array, "dtype", np.dtype(object)).kind in "biuf" for array in plain.values()
        )
        if self._bytes + size <= _MOST_BYTES_IN_MEMORY or not storable:
            self._bytes += size
            return plain
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / f"{self._count}.npz"
        self._count += 1
        np.savez(path, **plain)  # type: ignore[arg-type]
        return _Spooled(path, self._folder)


class _Spooled(NpzFile):
    """A temporary file that lives as long as somebody may read it."""

    def __init__(self, path: Path, folder: tempfile.TemporaryDirectory[str]) -> None:
        super().__init__(path)
        self._folder = folder


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        if added:
            sys.path.remove(here)

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

from onnxopt.core.errors import InvalidInputError, OnnxOptError
from onnxopt.runtime.inputs.user_files import NpzFile

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
    with user_code(f"{text}: cannot import {place}"):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
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
    with user_code(f"{source}: failed"):
        given = function()
        sets = iter([given] if isinstance(given, Mapping) else given)
    while True:
        with user_code(f"{source}: failed"):
            one = next(sets, None)
        if one is None:
            break
        if not isinstance(one, Mapping):
            raise InvalidInputError(
                f"{source}: has to yield dicts of arrays by input name, not {type(one).__name__}"
            )
        found += 1
        with user_code(f"{source}: failed"):
            kept = spool.keep(one)
        yield kept
    if not found:
        raise InvalidInputError(f"{source}: yields no inputs")


# What other code is known to raise; see `user_code` for code that may raise anything.
USER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError),
    *(LookupError, MemoryError, NameError, OSError, RuntimeError, TypeError, ValueError),
)


class user_code:  # noqa: N801  (reads as a statement)
    """A context in which code of the user's runs: whatever it raises becomes one line.

    Its exceptions may be of any class, and leaving the process would pass for a verdict. An
    interruption goes on.

    Args:
        what: What the line begins with.
        wrap: Makes the error to raise in place of that line.
    """

    def __init__(
        self, what: str = "", wrap: Callable[[BaseException], OnnxOptError] | None = None
    ) -> None:
        self._wrap = wrap or (lambda error: InvalidInputError(f"{what}: {_one_line(error)}"))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # The command line makes a SystemExit of its own kind of a signal.
        if isinstance(error, OnnxOptError):
            return
        if isinstance(error, Exception) or type(error) is SystemExit:
            raise self._wrap(error) from error


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


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

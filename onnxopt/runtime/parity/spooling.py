"""Results that wait for those of the other model: in memory up to a limit, then in a file."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.temporary import kept_aside

_MOST_BYTES_IN_MEMORY = 16 << 20


class Spool:
    """A list of results by name.

    Args:
        limit: Bytes to keep in memory; arrays beyond it are written to a temporary folder and read
            when they are asked for.
    """

    def __init__(self, limit: int = _MOST_BYTES_IN_MEMORY) -> None:
        self._limit = limit
        self._bytes = 0
        self._items: list[dict[str, Any]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0

    def __len__(self) -> int:
        return len(self._items)

    def append(self, outputs: dict[str, Any]) -> None:
        """Adds the results of a run."""
        self._items.append({name: self._kept(array) for name, array in outputs.items()})

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            name: kept.read() if isinstance(kept, _OnDisk) else kept
            for name, kept in self._items[index].items()
        }

    def read(self) -> tuple[dict[str, Any], ...]:
        """All results; those in files are mapped."""
        return tuple(self[index] for index in range(len(self)))

    def _kept(self, array: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
            return array
        if self._bytes + array.nbytes <= self._limit:
            self._bytes += array.nbytes
            # A copy: a result of ONNX Runtime holds on to all memory that its session ever took.
            return array.copy()
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / f"{self._files}.npy"
        self._files += 1
        with kept_aside(self._folder.name):
            np.save(path, array)
        return _OnDisk(path)


def release(array: Any) -> None:
    """Gives the pages of a result that was read from its file back to the system.

    Args:
        array: The result, a part of it, or anything else, which is left alone.
    """
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapping.madvise(mmap.MADV_DONTNEED)


class _OnDisk:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Any:
        # Mapped: its pages are given back when something else needs the memory.
        return np.load(self._path, mmap_mode="r")

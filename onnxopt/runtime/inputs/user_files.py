"""Arrays in files: a .npz, a folder of them, a folder of .npy files, or folders of such folders."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core.errors import InvalidInputError

_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile)
_NUMBERED = re.compile(r"(.+?)[._-](\d+)$")


class NpzFile(Mapping[str, Any]):
    """The arrays of a .npz file, each read when it is asked for.

    Args:
        path: The file.

    Raises:
        InvalidInputError: It is no .npz file, or an array cannot be read without running code.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Pickles can run code.
            with np.load(path, allow_pickle=False) as file:
                if not isinstance(file, np.lib.npyio.NpzFile):
                    raise InvalidInputError(
                        f"{path}: a .npz file with one array per input is needed"
                    )
                self._names = list(file.files)
        except _BROKEN as error:
            raise _unreadable(path, error) from error

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        try:
            with np.load(self._path, allow_pickle=False) as file:
                return file[name]
        except _BROKEN as error:
            raise _unreadable(self._path, error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class NpyFiles(Mapping[str, Any]):
    """Arrays of one .npy file each, read when they are asked for.

    Args:
        paths: Input name to file.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, name: str) -> Any:
        path = self._paths[name]
        try:
            return np.load(path, allow_pickle=False)
        except _BROKEN as error:
            raise _unreadable(path, error) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def read_files(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The input sets in a file or a folder: where each comes from, and its arrays by name.

    A folder holds .npz files (a set each, in the order of their names), .npy files named after the
    inputs (one set), .npy files named after input and number (`x_0.npy`, `x_1.npy`), or such
    folders.

    Raises:
        InvalidInputError: There is nothing that can be read.
    """
    if not path.is_dir():
        yield path.name, NpzFile(path)
        return
    entries = sorted(path.iterdir(), key=lambda entry: _natural(entry.name))
    archives = [entry for entry in entries if entry.suffix == ".npz"]
    arrays = [entry for entry in entries if entry.suffix == ".npy"]
    folders = [entry for entry in entries if entry.is_dir()]
    if archives:
        for archive in archives:
            yield archive.name, NpzFile(archive)
    elif arrays:
        yield from _array_sets(path, arrays)
    elif folders:
        for folder in folders:
            for source, found in read_files(folder):
                yield f"{folder.name}/{source}" if source != folder.name else source, found
    else:
        raise InvalidInputError(f"{path}: the folder holds no .npz or .npy file")


def _array_sets(folder: Path, paths: list[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    numbered = [_NUMBERED.match(path.stem) for path in paths]
    if not all(numbered) or len({match[2] for match in numbered if match}) < 2:
        yield folder.name, NpyFiles({path.stem: path for path in paths})
        return
    sets: dict[int, dict[str, Path]] = {}
    for match, path in zip(numbered, paths, strict=True):
        if match is not None:
            sets.setdefault(int(match[2]), {})[match[1]] = path
    for number, found in sorted(sets.items()):
        yield f"{folder.name} #{number}", NpyFiles(found)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts 10 after 9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _unreadable(path: Path, error: Exception) -> InvalidInputError:
    return InvalidInputError(f"{path}: cannot read the arrays: {error}")

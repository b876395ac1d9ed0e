"""Files that appear whole or not at all: written under a temporary name, then renamed.

Everything happens in the target's own folder, so that renaming is atomic. Whatever ends the work
early, an error, Ctrl-C or a full disk, takes the temporary files away; what a kill that Python
cannot see leaves behind, the next one to save into the folder removes (`stale_files`). No other
file that was there before is deleted, and none but the target replaced.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from onnxopt.graph.stale_files import hold, remove_stale

_BUFFER = 1 << 20
# What link says where the file system has no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)


class Staging:
    """Temporary files beside a target, and their way to their final names.

    Args:
        target: The file that makes the others visible: it is put in place last.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary: list[Path] = []
        self._held: list[int] = []
        self._identities: dict[Path, tuple[int, int]] = {}
        self._published: list[tuple[Path, tuple[int, int]]] = []
        self._main: tuple[int, int] | None = None

    @contextlib.contextmanager
    def create(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new temporary file; it is on the disk when the block ends."""
        path, descriptor = self._new_file()
        with open(descriptor, "wb", buffering=_BUFFER) as file:  # noqa: PTH123
            status = os.fstat(descriptor)
            self._identities[path] = status.st_dev, status.st_ino
            yield path, file
            file.flush()
            os.fsync(descriptor)

    def _new_file(self) -> tuple[Path, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        while True:
            path = self._target.parent / f".onnxopt-{secrets.token_hex(8)}.tmp"
            self._temporary.append(path)  # before it exists, so that no interrupt comes between
            descriptor = os.open(path, flags, 0o666)
            if hold(descriptor, path):
                # Until the very end: the file is of use after it was written.
                self._held.append(os.dup(descriptor))
                return path, descriptor
            os.close(descriptor)

    def publish(self, path: Path, names: Iterable[str]) -> Path:
        """Gives a temporary file the first of `names` that is free or has the same content.

        In the latter case the file that is there stays, and the temporary one goes.
        """
        identity = self._identities[path]
        for name in names:
            final = self._target.parent / name
            if final.is_file() and not final.is_symlink() and filecmp.cmp(path, final, False):
                path.unlink()
                return final
            self._published.append((final, identity))
            try:
                _move_to_new_name(path, final)
            except FileExistsError:
                continue
            return final
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._target))

    def replace_target(self, path: Path) -> None:
        """Puts the finished temporary file in the target's place. This is the last step."""
        with contextlib.suppress(FileNotFoundError):
            mode = self._target.stat().st_mode
            path.chmod(stat.S_IMODE(mode))
        self._main = self._identities[path]
        path.replace(self._target)
        _sync_folder(self._target.parent)

    def clean_up(self) -> None:
        """Removes what is left; after a failure also what was published for the target."""
        while self._held:
            os.close(self._held.pop())
        for path in self._temporary:
            with contextlib.suppress(OSError):
                path.unlink()
        if self._main is not None and _identity(self._target) == self._main:
            return
        for final, identity in self._published:
            # The name may belong to someone else who was faster.
            if _identity(final) == identity:
                with contextlib.suppress(OSError):
                    final.unlink()


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Staging]:
    """A `Staging` that cleans up at the end, however that comes about."""
    remove_stale(target.parent)
    stage = Staging(target)
    try:
        yield stage
    finally:
        stage.clean_up()


def _move_to_new_name(path: Path, final: Path) -> None:
    """Renames without ever replacing a file."""
    try:
        os.link(path, final)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        path.rename(final)
    else:
        path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, where folders can be synchronized."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

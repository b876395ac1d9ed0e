"""Temporary files and folders whose process is gone, found by a lock that ends with the process.

A process that is killed cannot clean up. Each temporary file or folder is therefore locked as long
as its process works on it; the system drops the lock with the process, and whoever saves into the
folder next removes what nobody holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.onnxopt-[0-9a-f]{16}\.tmp")


def hold(descriptor: int, path: Path) -> bool:
    """Locks a new temporary file or folder until the last copy of the descriptor is closed.

    Returns:
        False if `remove_stale` of another process was faster; then the file is, or will be, gone.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, on which nothing is ever taken for stale
        return True
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[bool]:
    """Locks a folder while the context lasts; the answer is that of `hold`."""
    if sys.platform == "win32":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield hold(descriptor, folder)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether no process holds a temporary file or folder; none can while the context lasts."""
    if sys.platform == "win32":
        yield False
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Removes the temporary files and folders in a folder that no process holds."""
    for path in folder.glob(".onnxopt-*.tmp"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with claimed(path) as free:
            if free and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif free:
                with contextlib.suppress(OSError):
                    path.unlink()

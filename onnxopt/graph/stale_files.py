"""Temporary files whose process is gone: found by a lock that only a living process can hold.

A process that is killed cannot clean up. Every temporary file is therefore locked as long as its
process works on it; the system drops the lock with the process, and whoever saves into the folder
next removes what nobody holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\.onnxopt-[0-9a-f]{16}\.tmp")


def hold(descriptor: int, path: Path) -> bool:
    """Locks a new temporary file until the last copy of the descriptor is closed.

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


def remove_stale(folder: Path) -> None:
    """Removes the temporary files in a folder that no process holds."""
    if sys.platform == "win32":
        return
    for path in folder.glob(".onnxopt-*.tmp"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)

"""Writing what a computation keeps aside to temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxopt.core.errors import SaveError


@contextmanager
def kept_aside(folder: str | Path) -> Iterator[None]:
    """Has a full disk reported as what it is.

    Args:
        folder: Where is written.

    Raises:
        SaveError: It could not be.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"cannot keep intermediate results in {folder}: {error.strerror}; free some space "
            "there, or name another place in TMPDIR"
        ) from error

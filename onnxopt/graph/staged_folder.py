"""A folder that appears whole or not at all.

A process that is killed leaves a temporary folder, or the former one under another name; the next
one to write to the same place clears that up.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from onnxopt.core.errors import SaveError
from onnxopt.graph.stale_files import claimed, holding, remove_stale


def check_folder(target: Path, *, marker: str, overwrite: bool) -> None:
    """Refuses a folder that cannot be written to, before any work is done for it.

    Args:
        target: The folder to make.
        marker: A file that says that a folder is of the same kind, so that it may be replaced.
        overwrite: Whether it may.

    Raises:
        SaveError: It holds something, its parent is missing or cannot be written to.
    """
    try:
        if target.is_dir():
            if any(target.iterdir()) and not (overwrite and (target / marker).is_file()):
                advice = (
                    f"only a folder with {marker} is overwritten"
                    if overwrite
                    else f"give another folder, or --overwrite if there is {marker} in it"
                )
                raise SaveError(f"{target} is not empty; {advice}")
        elif os.path.lexists(target):
            raise SaveError(f"{target} is a file; name a folder")
    except ValueError as error:  # a NUL in the path
        raise SaveError(f"{str(target)!r} is no folder name") from error
    except OSError as error:
        raise SaveError(f"cannot write to {target}: {error.strerror}") from error
    parent = target.absolute().parent
    if not parent.is_dir():
        raise SaveError(f"cannot write {target}: the folder {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise SaveError(f"cannot write {target}: no permission to write into {parent}")


@contextlib.contextmanager
def staged_folder(target: Path, *, marker: str, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside the target, which takes its place when the block ends well.

    The arguments are those of `check_folder`.

    Raises:
        SaveError: It cannot be made or moved; nothing is left of it.
    """
    target = target.resolve()  # behind a link: it stays, what it leads to is replaced
    _settle(target)
    check_folder(target, marker=marker, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        with save_errors(target):
            stage = _new_stage(target, stack)
        try:
            yield stage
            # Somebody may have put something there in the meantime.
            check_folder(target, marker=marker, overwrite=overwrite)
            with save_errors(target):
                _replace(stage, target)
        except SaveError as error:  # the user knows no stage
            raise SaveError(str(error).replace(str(stage), str(target))) from error


def _new_stage(target: Path, stack: contextlib.ExitStack) -> Path:
    """A temporary folder, held and in the end removed by the stack."""
    while True:
        stage = target.parent / f".onnxopt-{secrets.token_hex(8)}.tmp"
        stage.mkdir()
        held = stack.enter_context(holding(stage))
        stack.callback(shutil.rmtree, stage, ignore_errors=True)
        if held:
            return stage


def _former(target: Path, token: str) -> Path:
    """Where the folder that is replaced is for a moment; the name says whose it was."""
    of = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
    return target.parent / f".onnxopt-{token}-{of}.old"


def _settle(target: Path) -> None:
    """Finishes what killed processes began: what was to be replaced comes back, or goes."""
    if not target.parent.is_dir():
        return
    remove_stale(target.parent)
    for old in target.parent.glob(_former(target, "*").name):
        with claimed(old) as free:
            if free and os.path.lexists(target):
                shutil.rmtree(old, ignore_errors=True)
            elif free:
                with contextlib.suppress(OSError):
                    old.rename(target)


def _replace(stage: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        old = _former(target, secrets.token_hex(8))
        with holding(target):
            target.rename(old)
            try:
                stage.rename(target)
            finally:  # also if a signal comes in between
                if not target.exists():
                    old.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    else:
        if target.is_dir():
            target.rmdir()
        stage.rename(target)


@contextlib.contextmanager
def save_errors(target: Path) -> Iterator[None]:
    """Makes a `SaveError` of what the system says about writing a folder."""
    try:
        yield
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error.strerror or error}") from error

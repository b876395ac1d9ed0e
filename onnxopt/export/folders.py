"""The folder of an export: all of it appears at once, or nothing does."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError, SaveError

RECORD = "export.json"


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Refuses a folder that an export cannot be written to, before any work is done for it.

    Raises:
        SaveError: It holds something, its parent is missing or cannot be written to.
    """
    try:
        if target.is_dir():
            if any(target.iterdir()) and not (overwrite and (target / RECORD).is_file()):
                advice = (
                    "only earlier exports are overwritten"
                    if overwrite
                    else "give another folder, or --overwrite if it is an earlier export"
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
def staged_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside the target, which takes its place when the block ends well.

    Raises:
        SaveError: It cannot be made or moved; nothing is left of it.
    """
    check_folder(target, overwrite=overwrite)
    target = target.absolute()
    stage = target.parent / f".onnxopt-{secrets.token_hex(8)}.tmp"
    try:
        with _save_errors(target):
            stage.mkdir()
        yield stage
        with _save_errors(target):
            _replace(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(stage: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        old = stage.with_suffix(".old")
        target.rename(old)
        try:
            stage.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        if target.is_dir():
            target.rmdir()
        stage.rename(target)


@contextlib.contextmanager
def _save_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error.strerror or error}") from error


def copy_companions(source: Path, names: list[Path], stage: Path) -> None:
    """Copies configuration and tokenizer files; of links what they point to."""
    with _save_errors(stage):
        for name in names:
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, stage / name)


def write_record(record: dict[str, Any], stage: Path) -> None:
    """Writes the record of an export into its folder."""
    with _save_errors(stage):
        (stage / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an export; None if the folder is none.

    Raises:
        InvalidInputError: The record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = record["files"]
        good = isinstance(files, list) and all(_is_name(entry["file"]) for entry in files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{path} is damaged: {error}") from error
    if not good or not files:
        raise InvalidInputError(f"{path} is damaged: it lists no models of this folder")
    result: dict[str, Any] = record
    return result


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".onnx") and Path(name).name == name

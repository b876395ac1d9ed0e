"""The folder of an export: all of it appears at once, or nothing does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.staged_folder import save_errors

RECORD = "export.json"


def copy_companions(source: Path, names: list[Path], stage: Path) -> None:
    """Copies configuration and tokenizer files; of links what they point to."""
    with save_errors(stage):
        for name in names:
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, stage / name)


def copy_log(log: Path, stage: Path) -> None:
    """Copies the exporters' output into an export's folder."""
    with save_errors(stage):
        shutil.copyfile(log, stage / "export.log")


def write_record(record: dict[str, Any], stage: Path) -> None:
    """Writes the record of an export into its folder."""
    with save_errors(stage):
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

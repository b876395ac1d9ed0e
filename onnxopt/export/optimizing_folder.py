"""`optimize_folder`: every model of an export optimized, in a folder that is as complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.core.report import Report
from onnxopt.export.folders import RECORD, read_record, write_record
from onnxopt.graph.staged_folder import staged_folder
from onnxopt.optimizing import optimize


def optimize_folder(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, Report]:
    """Optimizes the models of a folder that `onnxopt.export` made.

    Args:
        folder: The folder; it is left as it is, unless it is also the output.
        output: The folder to make; it has all other files of the export as well.
        say: Told which file is next.
        options: Of `onnxopt.optimize`.

    Returns:
        File name to the report of its optimization.

    Raises:
        OnnxOptError: The folder is no export, or a model of it cannot be optimized; nothing was
            written.
    """
    source, target = Path(folder), Path(output)
    record = read_record(source)
    if record is None:
        raise InvalidInputError(f"{source} is no export: it has no export.json")
    entries = {str(entry["file"]): entry for entry in record["files"]}
    for name in entries:
        if not (source / name).is_file():
            raise InvalidInputError(f"{source} is incomplete: {name} is missing")
    same = target.exists() and target.resolve() == source.resolve()
    reports: dict[str, Report] = {}
    with staged_folder(target, marker=RECORD, overwrite=same) as stage:
        for name, entry in entries.items():
            if say is not None:
                say(name)
            report = optimize(source / name, stage / name, **options).report
            report.output = os.fspath(target / name)  # where it will be in the end
            reports[name] = report
            entry["optimized"] = report.to_dict()
        _copy_others(source, stage, set(entries))
        write_record(record, stage)
    return reports


def _copy_others(source: Path, stage: Path, models: set[str]) -> None:
    """Copies what is no model and no weights of one."""
    try:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            is_weights = len(name.parts) == 1 and any(
                path.name.startswith(f"{model}.") and path.suffix == ".data" for model in models
            )
            if path.is_symlink() or not path.is_file() or is_weights or str(name) in models:
                continue
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, stage / name)
    except OSError as error:
        raise SaveError(f"cannot copy {source}: {error.strerror or error}") from error

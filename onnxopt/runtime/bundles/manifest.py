"""`bundle.json`: what a bundle holds and what was measured of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.bundles.seals import make_seals
from onnxopt.runtime.session_settings import SessionSettings, settings_from

MANIFEST = "bundle.json"
FORMAT = 1
_MOST_BYTES = 16 << 20
_MOST_FILES = 10_000
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of a bundle: its size, and the SHA-256 of its content."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """Inputs with the outputs that belong to them.

    Attributes:
        inputs: File of the inputs, a .npz.
        outputs: File of the outputs.
        description: The inputs in words.
    """

    inputs: str
    outputs: str
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of a bundle.

    Attributes:
        model: File of the model.
        files: Path below the bundle's folder, with slashes, to size and hash; all but this record.
        session: How to open the model.
        samples: What it computes.
        tolerances: Output name to the figures of `runtime.parity.tolerance.Tolerance`.
        facts: Everything else that was recorded, by topic (environment, parity, timing, passes).
    """

    model: str
    files: Mapping[str, FileEntry]
    session: SessionSettings
    samples: tuple[Sample, ...] = ()
    tolerances: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as what JSON can hold, with its seals."""
        record = {
            "format": FORMAT,
            "model": self.model,
            "files": {path: dataclasses.asdict(entry) for path, entry in self.files.items()},
            "session": self.session.to_dict(),
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
            "tolerances": dict(self.tolerances),
            **self.facts,
        }
        # As a reader will see it: keys become texts on the way.
        record = json.loads(json.dumps(record))
        return {**record, "seals": make_seals(record)}


def read_record(folder: Path) -> dict[str, Any]:
    """The text of a bundle's record as data, unchecked.

    Raises:
        InvalidInputError: The folder is no bundle, or the record is damaged.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} does not exist or is not a folder")
    if not path.is_file():
        raise InvalidInputError(f"{folder} is no bundle: it has no {MANIFEST}")
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidInputError(f"{path} is damaged: {size} bytes are too many for a record")
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is damaged: {str(error)[:100]}") from error
    if not isinstance(record, dict):
        raise InvalidInputError(f"{path} is damaged: it is no table")
    return record


def parse_record(record: Mapping[str, Any], where: str) -> Manifest:
    """Checks a record and makes a manifest of it.

    Raises:
        InvalidInputError: Something in it is not as it is written; the message names it.
    """
    if record.get("format") != FORMAT:
        raise InvalidInputError(
            f"{where}: format {str(record.get('format'))[:20]} is not {FORMAT}; "
            "it was made by another version of onnxopt"
        )
    files = record.get("files")
    if not isinstance(files, dict) or len(files) > _MOST_FILES:
        raise InvalidInputError(f"{where}: the files are no table")
    entries = {path: _file_entry(path, entry, where) for path, entry in files.items()}
    model = record.get("model")
    if not isinstance(model, str) or model not in entries:
        raise InvalidInputError(f"{where}: the model {str(model)[:60]!r} is not among its files")
    samples = record.get("samples")
    if not isinstance(samples, list):
        raise InvalidInputError(f"{where}: the samples are no list")
    tolerances = record.get("tolerances")
    if not isinstance(tolerances, dict):
        raise InvalidInputError(f"{where}: the tolerances are no table")
    known = {"format", "model", "files", "session", "samples", "tolerances", "seals"}
    return Manifest(
        model=model,
        files=entries,
        session=settings_from(record.get("session"), where),
        samples=tuple(_sample(sample, entries, where) for sample in samples),
        tolerances=tolerances,
        facts={name: value for name, value in record.items() if name not in known},
    )


def read_manifest(folder: Path) -> Manifest:
    """The checked record of a bundle.

    Raises:
        InvalidInputError: The folder is no bundle, or its record is damaged.
    """
    return parse_record(read_record(folder), str(folder / MANIFEST))


def hash_file(path: Path) -> FileEntry:
    """Size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(os.fstat(file.fileno()).st_size, digest)


def is_inside(path: str) -> bool:
    """True for a path with slashes that stays below the folder it is relative to."""
    parts = path.split("/")
    return (
        bool(path)
        and not any(part in ("", ".", "..") for part in parts)
        and "\\" not in path
        and "\0" not in path
        and ":" not in parts[0]
    )


def _file_entry(path: str, entry: Any, where: str) -> FileEntry:
    if not is_inside(path):
        raise InvalidInputError(f"{where}: file {path[:80]!r} is outside the bundle")
    good = (
        isinstance(entry, dict)
        and entry.keys() == {"bytes", "sha256"}
        and type(entry["bytes"]) is int  # and no bool
        and 0 <= entry["bytes"] < 1 << 63
        and isinstance(entry["sha256"], str)
        and _HEX.fullmatch(entry["sha256"])
    )
    if not good:
        raise InvalidInputError(f"{where}: file {path[:80]!r} has no size and hash")
    return FileEntry(**entry)


def _sample(sample: Any, files: Mapping[str, FileEntry], where: str) -> Sample:
    names = {"inputs", "outputs", "description"}
    if not (
        isinstance(sample, dict)
        and sample.keys() == names
        and all(isinstance(text, str) for text in sample.values())
    ):
        raise InvalidInputError(f"{where}: a sample has other entries than {', '.join(names)}")
    for name in (sample["inputs"], sample["outputs"]):
        if name not in files:
            raise InvalidInputError(f"{where}: sample {name[:80]!r} is not among its files")
    return Sample(**sample)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes the record."""
    text = json.dumps(manifest.to_dict(), indent=2)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")

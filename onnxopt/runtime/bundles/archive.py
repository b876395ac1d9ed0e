"""A bundle as one .zip, written reproducibly and unpacked without trust."""

from __future__ import annotations

import lzma
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.staging import staging
from onnxopt.runtime.bundles.manifest import MANIFEST, is_inside, read_manifest

_MOMENT = (1980, 1, 1, 0, 0, 0)
# More members than a bundle has, and more than its record can say.
_MOST_MEMBERS = 10_000
_MOST_RECORD = 16 << 20
_REGULAR = 0o100644 << 16
# Members that someone compressed may be so many times as large as the archive.
_MOST_EXPANSION = 20
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    UnicodeDecodeError,
)  # fmt: skip


def pack(folder: Path, target: Path) -> None:
    """Writes the files of a bundle into a .zip, uncompressed: weights do not shrink.

    Raises:
        OSError: It cannot be written; nothing is left of it then.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with staging(target) as stage:
        with stage.create() as (path, file), zipfile.ZipFile(file, "w") as archive:
            for one in files:
                info = zipfile.ZipInfo(one.relative_to(folder).as_posix(), _MOMENT)
                info.external_attr = _REGULAR
                info.file_size = one.stat().st_size  # beyond 4 GB it has to be known before
                with one.open("rb") as source, archive.open(info, "w") as member:
                    shutil.copyfileobj(source, member, 1 << 20)
        stage.replace_target(path)


def extract(path: Path, folder: Path) -> None:
    """Unpacks a bundle: the files of its record, no others, and no more than their sizes.

    Raises:
        InvalidInputError: The file is no .zip of a bundle, or a member is not as recorded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Other tools add the folders themselves, which are made here as files need them.
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            present = set(names)
            if len(names) > _MOST_MEMBERS or len(present) != len(names):
                raise InvalidInputError(f"{path}: too many members, or two of one name")
            outside = [name for name in names if not is_inside(name)]
            if outside:
                raise InvalidInputError(f"{path}: member {outside[0][:80]!r} is outside the bundle")
            if MANIFEST not in names:
                raise InvalidInputError(f"{path} is no bundle: it has no {MANIFEST}")
            _unpack(archive, MANIFEST, folder, _MOST_RECORD)
            room = _MOST_RECORD + _MOST_EXPANSION * path.stat().st_size
            files = read_manifest(folder).files
            for name in files.keys() & present:
                room -= files[name].bytes
                if room < 0:
                    raise InvalidInputError(
                        f"{path}: its files are over {_MOST_EXPANSION} times as large as it is; "
                        "unpack it and verify the folder if it is to be trusted"
                    )
                _unpack(archive, name, folder, files[name].bytes)
    except _DAMAGED as error:
        raise InvalidInputError(f"{path} is no .zip of a bundle: {str(error)[:100]}") from error
    except OSError as error:
        raise InvalidInputError(f"cannot unpack {path}: {error.strerror or error}") from error


def _unpack(archive: zipfile.ZipFile, name: str, folder: Path, most: int) -> None:
    """One member; it is always a plain file, whatever its attributes say."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    left = most
    with archive.open(name) as source, target.open("xb") as file:
        while chunk := source.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise InvalidInputError(f"{os.fspath(name)[:80]} is larger than its record says")
            file.write(chunk)

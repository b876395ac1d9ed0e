"""Writes a model file: `save_model`.

Weights are streamed from where they are, so saving needs little more memory than the graph. The
file has one graph field with all initializers in it, as every reader expects.

What is guaranteed, for one process saving at a time:

- The target is the old file or the complete new one at every moment, also after a crash or a power
  cut. An existing data file is never changed, replaced or deleted: the new model's data goes to
  `<name>.data`, or to `<name>.<checksum>.data` if that name is taken by other content. So the old
  model stays valid until the new one takes its place, and no reader sees the one's graph with the
  other's weights. A data file that nothing refers to any more is for its owner to delete.
- The model in memory stays valid, also if it was loaded from the target.
- A data file that the model reads its weights from is refused as the target.
- After an error or an interrupt nothing of the attempt is left in the folder, also if that comes
  while the finished files are verified, before they take the target's place.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError, SaveError
from onnxopt.graph.accepting import accepted_model
from onnxopt.graph.mapped import MappedTensor
from onnxopt.graph.serializing import STREAMED_BYTES, ModelParts, Record, data_chunks, split_model
from onnxopt.graph.staging import Staging, staging
from onnxopt.graph.tensors import all_tensors

if TYPE_CHECKING:
    from onnx import ModelProto

# A protobuf message ends at 2^31 - 1 bytes; readers add a little of their own.
_LARGEST_FILE: Final = (1 << 31) - (1 << 20)
# Memory can be mapped from multiples of a page: 4 KB on Linux, 64 KB on Windows.
_ALIGNMENT: Final = 4096
_LARGE_ALIGNMENT: Final = 65536
_LARGE_TENSOR: Final = 1 << 20
_EXTERNAL: Final = 1  # TensorProto.DataLocation
_TEXT_SUFFIXES: Final = (".json", ".onnxtxt", ".onnxtext", ".textproto", ".pbtxt", ".prototxt")


def save_model(
    model: ir.Model | ModelProto,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    overwrite: bool = True,
    verify: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Saves a model, all of it or nothing.

    Args:
        model: The model (onnx_ir or onnx protobuf); it is left as it is.
        path: Where to. May be the path that the model was loaded from.
        external_data: True to put weights into a file of their own beside the model, False to
            never do so; by default only if the model would exceed protobuf's 2 GB.
        overwrite: Replace an existing file.
        verify: Called with the path of the finished model file, which has a temporary name beside
            the target and its data file beside it. If it raises, nothing is saved.

    Returns:
        The model file, followed by its data file if it has one.

    Raises:
        SaveError: The model cannot be serialized or the files cannot be written; the folder is as
            it was before.
    """
    target = Path(path)
    model = accepted_model(model)
    check_target(model, target, overwrite=overwrite)
    with staging(target) as stage:
        with _save_errors(target):
            finished, written = _write(model, target, stage, external_data)
        if verify is not None:
            verify(finished)
        with _save_errors(target):
            stage.replace_target(finished)
    return written


def check_target(model: ir.Model, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Refuses a path that a model cannot be saved to, before any work is done for it.

    Args:
        model: The model that is to be saved, or the one that it is made of.
        path: Where to.
        overwrite: An existing file may be replaced.

    Raises:
        SaveError: It is no file name, the folder is missing or cannot be written to, or it is a
            data file that the model's weights are in.
    """
    target = Path(path)
    status = _check_place(target, overwrite)
    if status is None:
        return
    for tensor in all_tensors(model):
        # The model file itself may be replaced: what is mapped of it stays.
        if isinstance(tensor, MappedTensor):
            own = tensor.raw.file.beside_model and tensor.raw.file.is_same(status)
        else:
            own = isinstance(tensor, ir.ExternalTensor) and _is_same(Path(tensor.path), status)
        if own:
            raise SaveError(
                f"cannot save {target}: it holds the external data of the input; "
                "choose another name"
            )


def _is_same(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except OSError:
        return False


@contextmanager
def _save_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(_reason(error, target)) from error
    except (InvalidModelError, ValueError) as error:  # a weight that cannot be read any more
        raise SaveError(f"cannot save {target}: {error}") from error


def _check_place(target: Path, overwrite: bool) -> os.stat_result | None:
    if target.suffix.lower() in _TEXT_SUFFIXES:
        raise SaveError(f"cannot save {target}: models are saved in binary; use the suffix .onnx")
    try:
        status = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except ValueError as error:  # a NUL in the path
        raise SaveError(f"{str(target)!r} is no file name") from error
    except OSError as error:
        raise SaveError(_reason(error, target)) from error
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise SaveError(f"cannot save {target}: it is a folder; name a file inside it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise SaveError(f"cannot save {target}: it is not a regular file")
    if status is not None and not overwrite:
        raise SaveError(f"{target} exists already; allow overwriting or choose another name")
    if not target.parent.is_dir():
        raise SaveError(f"cannot save {target}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise SaveError(_no_permission(target))
    return status


def _write(
    model: ir.Model, target: Path, stage: Staging, external_data: bool | None
) -> tuple[Path, list[Path]]:
    """Writes the files; the first one returned is the model's, the others are those to be."""
    parts = split_model(model)
    size = len(parts.head) + parts.graph_bytes()
    if external_data is None:
        external_data = size > _LARGEST_FILE
    if not external_data and size > _LARGEST_FILE:
        raise SaveError(
            f"cannot save {target} as one file: it has {size} bytes and protobuf reads at most "
            "2 GB; allow external data"
        )
    return _write_parts(parts, target, stage, external_data=external_data)


def _write_parts(
    parts: ModelParts, target: Path, stage: Staging, *, external_data: bool
) -> tuple[Path, list[Path]]:
    outside = [record for record in parts.records if _goes_outside(record)] if external_data else []
    written = [target]
    if outside:
        written.append(_write_data(outside, target, stage))
        if parts.graph_bytes() > _LARGEST_FILE:
            raise SaveError(f"cannot save {target}: the graph alone exceeds protobuf's 2 GB")
    with stage.create() as (path, file):
        for chunk in parts.chunks():
            file.write(chunk)
    return path, written


def _goes_outside(record: Record) -> bool:
    return record.tensor is not None and record.nbytes >= STREAMED_BYTES


def _write_data(records: list[Record], target: Path, stage: Staging) -> Path:
    """Writes the data file; the records refer to it afterwards."""
    name = f"{target.name}.data"
    taken = os.path.lexists(target.parent / name)
    checksum = 0
    places: dict[object, int] = {}
    ranges = []
    with stage.create() as (path, file):
        position = 0
        for record in records:
            source = _source(record)
            if source not in places:
                align = _LARGE_ALIGNMENT if record.nbytes >= _LARGE_TENSOR else _ALIGNMENT
                position += -position % align
                file.seek(position)  # what is skipped reads as zeros and takes no space
                places[source] = position
                for chunk in data_chunks(record):
                    file.write(chunk)
                    if taken:  # the checksum is only needed for another name
                        checksum = zlib.crc32(chunk, checksum)
                position += record.nbytes
            ranges.append((record, places[source]))
    final = stage.publish(path, _data_names(target.name, checksum))
    for record, offset in ranges:
        record.tensor = None
        record.proto.data_location = _EXTERNAL  # type: ignore[assignment]
        for key, value in (("location", final.name), ("offset", offset), ("length", record.nbytes)):
            record.proto.external_data.add(key=key, value=str(value))
    return final


def _source(record: Record) -> object:
    """Equal for records with the same data, as far as that is known without reading it."""
    tensor = record.tensor
    if isinstance(tensor, MappedTensor):
        return id(tensor.raw.file), tensor.raw.offset, tensor.raw.nbytes
    return id(tensor)


def _data_names(name: str, checksum: int) -> Iterator[str]:
    yield f"{name}.data"
    yield f"{name}.{checksum:08x}.data"
    yield from (f"{name}.{checksum:08x}-{count}.data" for count in range(2, 100))


def _reason(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot save {target}: {error.strerror}; free some space or choose another folder"
    if isinstance(error, PermissionError):
        return _no_permission(target)
    return f"cannot save {target}: {error.strerror or error}"


def _no_permission(target: Path) -> str:
    return f"cannot save {target}: no permission to write into {target.parent}"

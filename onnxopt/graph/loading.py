"""Reads a model file: `load_model`.

The weights are not read. The file is mapped into memory, its large initializers are cut out before
protobuf sees the message, and they come back as tensors over the mapping, as does external data. A
model of any size loads in the time and memory of its graph alone.

The file may be replaced (renamed over) while the model is in use, also by saving the model to its
own path. A file is never written to, and nothing outside the model's folder is read.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError, InvalidModelError
from onnxopt.graph.conversion import model_from_proto
from onnxopt.graph.external import ExternalData
from onnxopt.graph.mapped import DataFile
from onnxopt.graph.skeleton import Skeleton, cut_weights
from onnxopt.graph.wire import WireError

if TYPE_CHECKING:
    from onnx import ModelProto

# onnx's names of its text formats, by file suffix.
_TEXT_FORMATS: Final = {
    ".json": "json",
    ".onnxjson": "json",
    ".onnxtext": "onnxtxt",
    ".onnxtxt": "onnxtxt",
    ".pbtxt": "textproto",
    ".prototxt": "textproto",
    ".textproto": "textproto",
}
_LARGEST_TEXT: Final = 100 << 20
_LARGEST_MESSAGE: Final = (1 << 31) - 1

# What people take for an ONNX model, by its first bytes.
_OTHER_FILES: Final = (
    (
        b"version https://git-lfs.github.com/spec",
        "a Git LFS pointer; run git lfs pull to get the model",
    ),
    (b"PK\x03\x04", "a zip archive (PyTorch checkpoint?), not an ONNX model"),
    (b"\x80\x02", "a pickle, not an ONNX model"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"\x89HDF", "an HDF5 file, not an ONNX model"),
    (b"<", "text or HTML, not an ONNX model"),
)


def load_model(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> ir.Model:
    """Loads a model without reading its weights.

    Args:
        path: An ONNX file; one of onnx's text formats if the suffix says so (.onnxtxt, .json,
            .textproto).
        max_bytes: Refuse models that are larger, external data included.

    Returns:
        The checked model. Large weights and external data are `MappedTensor`s.

    Raises:
        InvalidInputError: There is no such file, or it cannot be read.
        InvalidModelError: It is no valid ONNX model, or its external data is missing, too short or
            outside the model's folder.
    """
    path = os.fspath(path)
    file = _open(path)
    if max_bytes is not None and file.size > max_bytes:
        raise InvalidModelError(f"{path} has {file.size} bytes; at most {max_bytes} are allowed")
    try:
        with _no_garbage_collection():
            return _load(file, max_bytes)
    except InvalidModelError as error:
        raise InvalidModelError(f"{path}: {error}") from error


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A graph is built of a million objects none of which is garbage; looking for it among them
    # takes a quarter of the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _open(path: str) -> DataFile:
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise InvalidInputError(f"{path} is a folder; {_advice(Path(path))}")
        if not stat.S_ISREG(mode):
            raise InvalidInputError(f"{path} is not a regular file")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the path
        raise InvalidInputError(f"{path!r} is no file name") from error
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path} does not exist") from error
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    try:
        return DataFile(descriptor, path)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _advice(folder: Path) -> str:
    try:
        models = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".onnx")
    except OSError:
        models = []
    if len(models) == 1:
        return f"pass the model inside it: {folder / models[0]}"
    return (
        f"pass one of the {len(models)} .onnx files inside it" if models else "pass an .onnx file"
    )


def _load(file: DataFile, max_bytes: int | None) -> ir.Model:
    if file.size == 0:
        raise InvalidModelError("the file is empty")
    external = ExternalData(file.path)
    text_format = _TEXT_FORMATS.get(Path(file.path).suffix.lower())
    if text_format is not None:
        proto = _parse_text(file, text_format)
        return _within(model_from_proto(proto, external=external), file, external, max_bytes)
    start = bytes(file.view()[:64])
    if start[4:8] == b"ORTM":
        raise InvalidModelError("this is ONNX Runtime's own format; pass the .onnx file it is from")
    for prefix, what in _OTHER_FILES:
        if start.startswith(prefix):
            raise InvalidModelError(f"this is {what}")
    skeleton = _cut(file)
    proto = _parse(skeleton)
    model = model_from_proto(proto, file=file, cuts=skeleton.cuts, external=external)
    return _within(model, file, external, max_bytes)


def _within(
    model: ir.Model, file: DataFile, external: ExternalData, max_bytes: int | None
) -> ir.Model:
    total = file.size + external.nbytes
    if max_bytes is not None and total > max_bytes:
        raise InvalidModelError(f"it has {total} bytes; at most {max_bytes} are allowed")
    return model


def _cut(file: DataFile) -> Skeleton:
    try:
        skeleton = cut_weights(file.view(), file.release)
    except WireError as error:
        raise InvalidModelError(f"the file is damaged or is no ONNX model: {error}") from error
    file.release(0, file.size)
    if len(skeleton.message) > _LARGEST_MESSAGE:
        raise InvalidModelError(
            f"the graph without its weights has {len(skeleton.message)} bytes; protobuf reads 2 GB"
        )
    return skeleton


def _parse(skeleton: Skeleton) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton.message)
    except DecodeError as error:
        if "MaxDepth" in str(error) or "recursion" in str(error):
            raise InvalidModelError(
                "its subgraphs are nested deeper than protobuf, and so ONNX Runtime, can read"
            ) from error
        raise InvalidModelError("the file is damaged or is no ONNX model") from error
    return proto


def _parse_text(file: DataFile, text_format: str) -> ModelProto:
    import onnx
    import onnx.parser
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from google.protobuf import text_format as textproto

    if file.size > _LARGEST_TEXT:
        raise InvalidModelError("text formats are read up to 100 MB; convert it to .onnx")
    try:
        return onnx.load_model_from_string(bytes(file.view()), format=text_format)
    except (
        json_format.ParseError,
        textproto.ParseError,
        onnx.parser.ParseError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InvalidModelError(f"it cannot be read as {text_format}: {reason[:200]}") from error

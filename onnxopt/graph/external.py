"""External data: tensors in files beside the model, opened safely and checked before use.

A model file is data from somewhere. The location that it names must not lead anywhere but into its
own folder: no absolute path, no `..`, no symbolic link on the way, no device or pipe. Each file is
opened component by component without following links, so nothing can be swapped in between check
and use.

One layout with links is accepted, that of the Hugging Face cache: there the model and its data are
both links into one folder of blobs. If the model's own path is a link, a data file may be a link
into the folder that the model itself is in.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.mapped import DataFile, MappedTensor, map_tensor, stored_bytes
from onnxopt.graph.tensor_data import tensor_dims, tensor_dtype

if TYPE_CHECKING:
    from onnx import TensorProto

# A process may have 1,024 files open by default, and some exporters write one file per tensor.
_KEPT_OPEN = 256
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def map_proto(file: DataFile, offset: int, proto: TensorProto) -> MappedTensor:
    """The tensor that `proto` describes, with its data at `offset` of `file`, unchecked."""
    return map_tensor(
        file,
        offset,
        ir.DataType(proto.data_type),
        tuple(proto.dims),
        name=proto.name,
        doc_string=proto.doc_string or None,
        metadata_props={entry.key: entry.value for entry in proto.metadata_props} or None,
    )


class ExternalData:
    """The data files of one model; each is opened once.

    Args:
        model_path: The model file, or None for a model that has none.
    """

    def __init__(self, model_path: str | None) -> None:
        self._model_path = model_path
        self._files: dict[str, DataFile] = {}

    @property
    def nbytes(self) -> int:
        """Size of all data files together."""
        return sum(file.size for file in self._files.values())

    def tensor(self, proto: TensorProto, where: str) -> MappedTensor:
        """The tensor that `proto` describes.

        Raises:
            InvalidModelError: The location is unsafe, or the file does not hold the data.
        """
        dtype, dims = tensor_dtype(proto, where), tensor_dims(proto, where)
        if dtype == ir.DataType.STRING:
            raise InvalidModelError(f"{where} keeps strings as external data, which ONNX forbids")
        entries = {entry.key: entry.value for entry in proto.external_data}
        # Protobuf hands out bytes where a string is no valid UTF-8.
        if any(isinstance(text, bytes) for pair in entries.items() for text in pair):
            raise InvalidModelError(f"{where} has external data whose entries are not valid UTF-8")
        file = self._file(entries.get("location", ""), where)
        needed = stored_bytes(dtype, dims)
        offset = _integer(entries, "offset", where, 0)
        length = _integer(entries, "length", where, needed)
        if length != needed:
            raise InvalidModelError(
                f"{where} is declared as {dtype.name}{list(dims)}, {needed} bytes, but its "
                f"external data has length {length}"
            )
        if offset + length > file.size:
            raise InvalidModelError(
                f"{where} needs bytes {offset} to {offset + length} of {file.path}, which has "
                f"{file.size}; the file is incomplete or belongs to another model"
            )
        return map_proto(file, offset, proto)

    def _file(self, location: str, where: str) -> DataFile:
        if location in self._files:
            return self._files[location]
        if self._model_path is None:
            raise InvalidModelError(
                f"{where} is external data of a model without a file; load it from its path"
            )
        _check_location(location, where)
        folder = os.path.dirname(self._model_path) or "."  # noqa: PTH120
        path = os.path.join(folder, *location.split("/"))  # noqa: PTH118
        try:
            descriptor = self._open(folder, location)
        except OSError as error:
            raise InvalidModelError(_reason(error, path, where)) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidModelError(f"{where}: external data {path} is not a regular file")
            if os.path.samestat(status, Path(self._model_path).stat()):
                raise InvalidModelError(f"{where} names the model file itself as its external data")
            keep_open = len(self._files) < _KEPT_OPEN
            file = DataFile(descriptor, path, keep_open=keep_open, beside_model=True)
        finally:
            os.close(descriptor)
        self._files[location] = file
        return file

    def _open(self, folder: str, location: str) -> int:
        """Opens a location below the folder without following any link."""
        *parents, name = location.split("/")
        if os.open not in os.supports_dir_fd or not _NO_FOLLOW:  # Windows: links need privileges
            path = folder
            for part in (*parents, name):
                path = os.path.join(path, part)  # noqa: PTH118
                if os.path.islink(path):  # noqa: PTH114
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            return os.open(path, _FLAGS)
        # O_NONBLOCK: opening a pipe would wait for its other end.
        flags = _FLAGS | _NO_FOLLOW | os.O_NONBLOCK
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parents:
                inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            try:
                return os.open(name, flags, dir_fd=directory)
            except OSError as error:
                beside = self._linked_beside(folder, location)
                if error.errno not in _LINK_ERRORS or beside is None:
                    raise
                return os.open(beside, flags)
        finally:
            os.close(directory)

    def _linked_beside(self, folder: str, location: str) -> str | None:
        """Target of a linked data file if that is beside the target of a linked model."""
        model = self._model_path or ""
        if not os.path.islink(model):  # noqa: PTH114
            return None
        target = os.path.realpath(os.path.join(folder, location))  # noqa: PTH118
        beside = os.path.dirname(target) == os.path.dirname(os.path.realpath(model))  # noqa: PTH120
        return target if beside else None


# What open says to a symbolic link: Linux and macOS, FreeBSD.
_LINK_ERRORS = (errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP))


def _check_location(location: str, where: str) -> None:
    shown = f"{where} has the external data location {location!r}"
    if not location:
        raise InvalidModelError(f"{where} is external data but names no file")
    if "\0" in location or "\\" in location or location.startswith("/") or location[1:2] == ":":
        raise InvalidModelError(
            f"{shown}, which is not a relative path; only files below the model's folder are read"
        )
    if any(part in ("", ".", "..") for part in location.removeprefix("./").split("/")):
        raise InvalidModelError(f"{shown}; only files below the model's folder are read")


def _integer(entries: dict[str, str], key: str, where: str, default: int) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidModelError(f"{where} has the external data {key} {text[:40]!r}")
    return int(text)


def _reason(error: OSError, path: str, where: str) -> str:
    if error.errno in _LINK_ERRORS or error.errno == errno.ENOTDIR:
        return (
            f"{where}: external data {path} is or leads through a symbolic link; put the file "
            "itself beside the model"
        )
    if isinstance(error, FileNotFoundError):
        return f"{where} needs the external data file {path}, which does not exist; put it there"
    return f"{where}: cannot read external data {path}: {error.strerror}"

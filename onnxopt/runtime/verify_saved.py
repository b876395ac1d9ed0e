"""Opening a saved model again, away from where it was made, and running it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from onnxopt.core.errors import SaveError
from onnxopt.runtime.session import CannotRunError, Feeds, open_session

# The working directory belongs to the whole process.
_CHDIR = threading.Lock()


def verify_saved(path: str | os.PathLike[str], feeds: Feeds) -> None:
    """Proves that a saved file loads and runs on its own.

    The working directory of the whole process is another one for the moment: relative paths that
    other threads open meanwhile may be missed.

    Args:
        path: The saved model.
        feeds: Inputs that the model is known to run on.

    Raises:
        SaveError: Its external data is dangling, or it does not load or run.
    """
    # Resolved before the working directory changes.
    absolute = Path(path).resolve()
    _check_external_data(absolute)
    with _elsewhere():
        try:
            session = open_session(
                absolute, optimization="disabled", spinning=False, reuse_memory=False
            )
            session.run(feeds)
        except CannotRunError as error:
            raise SaveError(f"{path}: the saved model does not run: {error.reason}") from error


def _check_external_data(path: Path) -> None:
    """Every piece of external data is a relative path to bytes that exist beside the model.

    ONNX Runtime accepts some that only resolve on this machine.
    """
    model = onnx.load(path, load_external_data=False)
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = Path(entries.get("location", ""))
        if location.is_absolute() or ".." in location.parts:
            raise SaveError(
                f"{path}: the data of {tensor.name!r} is outside its folder: {location}"
            )
        file = path.parent / location
        if not file.is_file():
            raise SaveError(f"{path}: the data of {tensor.name!r} is missing: {location}")
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if file.stat().st_size < end:
            raise SaveError(f"{path}: {location} ends before the data of {tensor.name!r}")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


@contextmanager
def _elsewhere() -> Iterator[None]:
    with _CHDIR, tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)

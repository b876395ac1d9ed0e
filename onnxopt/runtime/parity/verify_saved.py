"""Proving a saved file: nothing dangles, it opens away from where it was made, and is at parity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxopt.core.errors import SaveError
from onnxopt.graph.mapped import DataFile
from onnxopt.graph.skeleton import cut_weights
from onnxopt.runtime.inputs.plan import InputPlan, InputSet
from onnxopt.runtime.parity.check import check_parity
from onnxopt.runtime.parity.result import ParityResult
from onnxopt.runtime.session import ModelSource, SavedFile

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def verify_saved(
    path: str | os.PathLike[str],
    original: ModelSource,
    input_sets: InputPlan | Sequence[InputSet] | None = None,
) -> ParityResult:
    """Opens a saved file as any other program does and compares it with the original.

    The working directory of the whole process is another one while the file is opened: relative
    paths that other threads open meanwhile may be missed.

    Args:
        path: The saved model.
        original: The reference.
        input_sets: Inputs, or the plan to make them; by default planned from the original.

    Returns:
        Whether it is at parity. A file that does not load or run is not.

    Raises:
        SaveError: Its external data is dangling.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    # Resolved before the working directory changes.
    absolute = Path(path).resolve()
    _check_external_data(absolute)
    return check_parity(original, SavedFile(str(absolute)), input_sets=input_sets)


def _check_external_data(path: Path) -> None:
    """Every piece of external data is a relative path to bytes that exist beside the model.

    ONNX Runtime accepts some that only resolve on this machine.
    """
    import onnx

    for tensor in _tensors(_without_weights(path).graph):
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


def _without_weights(path: Path) -> ModelProto:
    """The model's message, of which large weights are not even read."""
    import onnx

    with path.open("rb") as file:
        data = DataFile(file.fileno(), str(path))
    proto = onnx.ModelProto()
    proto.ParseFromString(cut_weights(data.view(), data.release).message)
    return proto


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
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

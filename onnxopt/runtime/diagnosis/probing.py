"""Running a model for its intermediate values, of which only some fit into memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.inference import infer_model
from onnxopt.graph.mapped import release_weights
from onnxopt.graph.values import dims
from onnxopt.runtime.diagnosis.regions import cut
from onnxopt.runtime.inputs.dimensions import evaluate
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.session import Feeds, Session, open_session

Arrays = dict[str, NDArray[Any]]


class Probe:
    """A model whose intermediate values can be read.

    Attributes:
        model: A copy of the model, with inferred types; weights are shared.
        values: Computed values of the main graph by name.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        infer_model(self.model)
        self.values = {
            value.name: value
            for node in self.model.graph
            for value in node.outputs
            if value.name and (value.type is None or isinstance(value.type, ir.TensorType))
        }
        self._shapes = {name: dims(value) for name, value in self.values.items()}

    def sizes(self, names: Sequence[str], feeds: Feeds) -> dict[str, int]:
        """Bytes that values take; where the shape is not known, as many as the largest known."""
        symbols = {
            dim: size
            for value in self.model.graph.inputs
            for dim, size in zip(
                dims(value) or (), getattr(feeds.get(value.name or ""), "shape", ()), strict=False
            )
            if isinstance(dim, str)
        }
        known = {name: _bytes(self.values[name], self._shapes[name], symbols) for name in names}
        largest = max((size for size in known.values() if size is not None), default=1 << 20)
        return {name: largest if size is None else size for name, size in known.items()}

    def fetch(self, names: Sequence[str], feeds: Feeds) -> Arrays:
        """Runs the model as it is written, up to the named values.

        Raises:
            CannotRunError: ONNX Runtime refuses the model.
        """
        session = open_plain(cut(self.model, names))
        try:
            return session.run(as_declared(session, feeds))
        finally:
            release_weights(self.model)


def open_plain(model: ir.Model) -> Session:
    """A session that computes what is written and keeps no second copy of the weights."""
    return open_session(
        model,
        optimization="disabled",
        spinning=False,
        reuse_memory=False,
        prepacking=False,
        arena=False,
    )


def as_declared(session: Session, feeds: Feeds) -> dict[str, Any]:
    """The feeds in the types that a session wants; float16 models take the original's floats."""
    chosen: dict[str, Any] = {}
    for declared in session.inputs:
        if declared.name not in feeds:
            raise CannotRunError(f"input {declared.name!r} is not fed")
        array = feeds[declared.name]
        chosen[declared.name] = _cast(array, declared.type) if hasattr(array, "dtype") else array
    return chosen


def chunks(names: Sequence[str], sizes: Mapping[str, int], budget: int) -> Iterator[list[str]]:
    """Splits values, in order, into runs that take no more than `budget` bytes each."""
    chunk: list[str] = []
    taken = 0
    for name in names:
        if chunk and taken + sizes[name] > budget:
            yield chunk
            chunk, taken = [], 0
        chunk.append(name)
        taken += sizes[name]
    if chunk:
        yield chunk


_FLOATS = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(double)": ir.DataType.DOUBLE,
    "tensor(float16)": ir.DataType.FLOAT16,
    "tensor(bfloat16)": ir.DataType.BFLOAT16,
}


def _cast(array: NDArray[Any], type_: str) -> NDArray[Any]:
    wanted = _FLOATS.get(type_)
    if wanted is None or array.dtype.kind not in "fV" or array.dtype == wanted.numpy():
        return array
    with np.errstate(over="ignore"):
        return array.astype(wanted.numpy())


def _bytes(
    value: ir.Value, shape: tuple[int | str | None, ...] | None, symbols: Mapping[str, int]
) -> int | None:
    if shape is None:
        return None
    sizes = [
        dim if isinstance(dim, int) else None if dim is None else evaluate(dim, symbols)
        for dim in shape
    ]
    if any(size is None for size in sizes):
        return None
    item = 4 if value.dtype is None else max(value.dtype.itemsize, 1)
    return math.ceil(math.prod(size for size in sizes if size is not None) * item)

"""Arrays of many samples, cut into as many rows as a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.values import dims
from onnxopt.runtime.inputs.user_data import UserData

# Rows of a long array that make one input set, where the model takes any number.
_ROWS = 8


class _Rows(Mapping[str, Any]):
    """Some of the rows of arrays."""

    def __init__(self, arrays: Mapping[str, Any], start: int, stop: int) -> None:
        self._arrays, self._start, self._stop = arrays, start, stop

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name][self._start : self._stop]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def in_rows(one: UserData, inputs: Mapping[str, ir.Value]) -> list[UserData]:
    """Cuts arrays of many samples into sets of as many as the model takes.

    Args:
        one: Arrays that are read already are cut; images and files are left as they are.
        inputs: The model's inputs by name.

    Raises:
        InvalidInputError: The arrays have no rows.
    """
    arrays = one.arrays
    if not isinstance(arrays, dict):
        return [one]
    counts, taken = set(), set()
    for name, array in arrays.items():
        shape = dims(inputs[name]) if name in inputs else None
        found = np.shape(array)
        if not shape or len(found) != len(shape):
            return [one]
        counts.add(found[0])
        taken.add(shape[0] if isinstance(shape[0], int) and shape[0] > 0 else 0)
    if len(counts) != 1 or len(taken) != 1:
        return [one]
    count, rows = counts.pop(), taken.pop() or _ROWS
    if count == 0:
        raise InvalidInputError(f"{one.source}: the arrays have no rows")
    if count <= rows or (taken and count % rows):
        return [one]
    starts = range(0, count, rows)
    return [UserData(_Rows(arrays, start, start + rows), one.source) for start in starts]

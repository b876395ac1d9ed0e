"""Second moments of what weights are multiplied with: X'X / rows, a few values at a time.

A moment of a value of width K takes 8 K^2 bytes. The model is run piece by piece: a piece ends
where the weights, values and moments of more nodes would not fit the memory. Between two pieces
only what is live there is kept (`walk`); no other activation outlives its run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.pieces import cut_into_pieces
from onnxopt.calibration.runs import largest_sample
from onnxopt.calibration.walk import Walk
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.diagnosis.probing import Probe

DEFAULT_MEMORY = 1 << 30


@dataclasses.dataclass
class Moments:
    """Of one value.

    Attributes:
        matrix: Sum of the outer products of its rows, [K, K].
        rows: How many rows there were.
    """

    matrix: NDArray[np.float64]
    rows: int = 0

    @property
    def mean(self) -> NDArray[np.float64]:
        """The matrix per row."""
        return self.matrix / max(1, self.rows)


def second_moments(
    model: ir.Model,
    widths: Mapping[str, int],
    data: CalibrationData,
    *,
    max_memory: int = DEFAULT_MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, Moments]]:
    """Runs the model over the data and yields the moments of its values.

    Args:
        model: The float model.
        widths: Names of values of the main graph, with the length of their last axis.
        data: What to run on.
        max_memory: Bytes for weights, moments and values.
        progress: Told the number of pieces done and the number of all.

    Raises:
        InvalidInputError: The model does not run on the data, or a value is not finite on it.
    """
    probe, needs = _needs(model, widths, data)
    parts = cut_into_pieces(probe.model, needs, max_memory // 2)
    walk = Walk(data, range(len(data)), max_memory // 2)
    for number, piece in enumerate(parts):
        found = {name: Moments(np.zeros((widths[name], widths[name]))) for name in piece.names}
        for index, values in enumerate(walk.advance(probe.model, piece.names, piece.before)):
            for name, moments in found.items():
                rows = _rows(values.pop(name))
                moments.matrix += _finite(rows.T @ rows, name, data, index)
                moments.rows += len(rows)
        if progress is not None:
            progress(number + 1, len(parts))
        for name in piece.names:
            yield name, found.pop(name)


def _needs(
    model: ir.Model, widths: Mapping[str, int], data: CalibrationData
) -> tuple[Probe, dict[str, int]]:
    probe = Probe(model)
    inputs = {value.name for value in model.graph.inputs}
    names = [name for name in widths if name in probe.values or name in inputs]
    longest = largest_sample(data, range(len(data)))
    sizes = probe.sizes([n for n in names if n in probe.values], data[longest].feeds)
    return probe, {name: 8 * widths[name] ** 2 + 3 * sizes.get(name, 0) for name in names}


def _rows(array: Any) -> NDArray[np.float32]:
    found = np.asarray(array, np.float32)
    return found.reshape(-1, found.shape[-1])


def _finite(
    product: NDArray[np.float32], name: str, data: CalibrationData, index: int
) -> NDArray[np.float32]:
    if not np.isfinite(product).all():
        raise InvalidInputError(
            f"value {name!r} is NaN, infinite or too large on calibration sample "
            f"{index} ({data[index].description})"
        )
    return product

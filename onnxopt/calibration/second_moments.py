"""Second moments of what weights are multiplied with: X'X / rows, a few values at a time.

A moment of a value of width K takes 8 K^2 bytes. Values are taken in chunks that fit the memory,
for each of which the data is run once; no activation outlives its run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.probing import Probe, chunks

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
    """Runs the model over the data and yields the moments of its values, in the given order.

    Args:
        model: The float model.
        widths: Names of values of the main graph, with the length of their last axis.
        data: What to run on.
        max_memory: Bytes for moments and values, beyond the model itself.
        progress: Told the number of runs done and the number of all.

    Raises:
        InvalidInputError: The model does not run on the data, or a value is not finite on it.
    """
    probe = Probe(model)
    inputs = {value.name for value in model.graph.inputs}
    names = [name for name in widths if name in probe.values or name in inputs]
    longest = largest_sample(data, range(len(data)))
    computed = [name for name in names if name in probe.values]
    sizes = probe.sizes(computed, data[longest].feeds)
    needs = {name: 8 * widths[name] ** 2 + 3 * sizes.get(name, 0) for name in names}
    parts = list(chunks(names, needs, max_memory))
    for number, part in enumerate(parts):
        found = {name: Moments(np.zeros((widths[name], widths[name]))) for name in part}
        _accumulate(probe, found, data)
        if progress is not None:
            progress(number + 1, len(parts))
        for name in part:
            yield name, found.pop(name)


def _accumulate(probe: Probe, found: dict[str, Moments], data: CalibrationData) -> None:
    computed = [name for name in found if name in probe.values]
    for index, one, values in run_samples(probe, computed, data, range(len(data))):
        for name, moments in found.items():
            array = np.asarray(values.pop(name), np.float32)
            rows = array.reshape(-1, array.shape[-1])
            product = rows.T @ rows
            if not np.isfinite(product).all():
                raise InvalidInputError(
                    f"value {name!r} is NaN, infinite or too large on calibration sample "
                    f"{index} ({one.description})"
                )
            moments.matrix += product
            moments.rows += len(rows)

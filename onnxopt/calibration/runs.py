"""Running a model over calibration data, for whatever is to be observed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.mapped import release_weights
from onnxopt.runtime.diagnosis.probing import Probe, as_declared, open_plain
from onnxopt.runtime.diagnosis.regions import cut
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.library import CannotRunError


def run_samples(
    probe: Probe, names: Sequence[str], data: CalibrationData, samples: Iterable[int]
) -> Iterator[tuple[int, InputSet, dict[str, Any]]]:
    """Yields, for each sample, its index, the sample, and its inputs with the computed values.

    Args:
        probe: The model.
        names: Values that it computes; without any it is not run.
        data: What to run on.
        samples: Indexes of the input sets.

    Raises:
        InvalidInputError: The model does not run on one of them.
    """
    session = None
    try:
        for index in samples:
            one = data[index]
            values = dict(one.feeds)
            if names:
                try:
                    session = session or open_plain(cut(probe.model, names))
                    values |= session.run(as_declared(session, one.feeds))
                except CannotRunError as error:
                    raise InvalidInputError(
                        f"the model does not run on calibration sample {index} "
                        f"({one.description}): {error.reason}"
                    ) from error
            yield index, one, values
    finally:
        release_weights(probe.model)


def largest_sample(data: CalibrationData, samples: Iterable[int]) -> int:
    """Index of the sample with the most elements: the others need no more memory."""

    def elements(index: int) -> int:
        return sum(getattr(array, "size", 1) for array in data[index].feeds.values())

    return max(samples, key=elements, default=0)

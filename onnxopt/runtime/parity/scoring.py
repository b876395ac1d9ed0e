"""The predictions of two models, collected for a score against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.parity.comparison_result import Score
from onnxopt.runtime.parity.metrics import find_metric, read_labels, score
from onnxopt.runtime.parity.spooling import Spool


class Scoring:
    """Collects one output of both models and scores it.

    Args:
        labels: An array or a file of them, one for each row of the inputs.
        metrics: Names, functions, or `module:function`; chosen by the labels if there are none.
        output: The output to score; the first by default.
    """

    def __init__(self, labels: Any, metrics: Sequence[Any] = (), output: str | None = None) -> None:
        self._labels = read_labels(labels)
        self._metrics = metrics or (None,)
        self._output = output
        self._predictions = (Spool(), Spool())

    def add(self, model: int, outputs: Mapping[str, Any]) -> None:
        """Adds the results of a run of the first (0) or second (1) model.

        Raises:
            InvalidInputError: There is no such output, or it is no array.
        """
        name = self._output or next(iter(outputs))
        if name not in outputs:
            raise InvalidInputError(
                f"no output is named {name!r}; the outputs are {', '.join(outputs)}"
            )
        if not isinstance(outputs[name], np.ndarray):
            raise InvalidInputError(f"output {name!r} is no array; --output names another to score")
        self._predictions[model].append({name: outputs[name]})

    def scores(self) -> tuple[Score, ...]:
        """The scores of both models.

        Raises:
            InvalidInputError: Labels and predictions do not fit each other.
        """
        first, second = (self._joined(spool) for spool in self._predictions)
        found = []
        for wanted in self._metrics:
            name, metric = find_metric(wanted, first, self._labels)
            values = [score(name, metric, given, self._labels) for given in (first, second)]
            found.append(Score(name, *values))
        return tuple(found)

    def _joined(self, spool: Spool) -> NDArray[Any]:
        """All rows; runs without a batch axis, or of one label each, are rows themselves."""
        arrays = [next(iter(spool[index].values())) for index in range(len(spool))]
        rows = sum(array.shape[0] if array.ndim else 1 for array in arrays)
        alike = len({array.shape for array in arrays}) == 1
        if alike and (len(arrays) == len(self._labels) != rows or arrays[0].ndim == 0):
            return np.stack(arrays)
        if any(array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:] for array in arrays):
            raise InvalidInputError(
                "predictions of different sizes cannot be scored together: "
                + ", ".join(sorted({str(list(array.shape)) for array in arrays})[:4])
            )
        return np.concatenate(arrays)

"""What counts instead of distance: accuracy on labels, or a function of the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.user_functions import find_function, names_function, user_code

# Outputs by name and the number of the sample in the data -> a number, the higher the better.
Score = Callable[[Mapping[str, Any], int], float]
_SUFFIXES = (".npy", ".txt", ".csv")


class Metric:
    """The mean score of a model over samples.

    Args:
        score: Judges the outputs of one sample.
        samples: Numbers of the samples that are measured on, in order.
        name: What is measured, for the report.
    """

    def __init__(self, score: Score, samples: Sequence[int], name: str) -> None:
        self._score, self._samples, self.name = score, samples, name
        self._of_float: list[float] = []

    def start(self) -> Tally:
        """Begins to judge a model."""
        return Tally(self._score, self._samples, self._of_float)

    def of(self, outputs: Sequence[Mapping[str, Any]]) -> float:
        """The mean score of the float model, by its outputs; others are compared with it."""
        tally = self.start()
        for index, one in enumerate(outputs):
            tally.add(index, one)
        self._of_float = tally.found
        return tally.mean


class Tally:
    """Scores of one model, as its outputs come in.

    Attributes:
        found: The score of each sample.
    """

    def __init__(self, score: Score, samples: Sequence[int], of_float: Sequence[float]) -> None:
        self._score, self._samples, self._of_float = score, samples, of_float
        self.found: list[float] = []

    def add(self, index: int, outputs: Mapping[str, Any]) -> None:
        """Judges the outputs for the sample at this place.

        Raises:
            InvalidInputError: The score is no finite number.
        """
        with user_code("the metric failed"):
            found = float(self._score(outputs, self._samples[index]))
        if not np.isfinite(found):
            raise InvalidInputError(f"the metric is {found} on sample {self._samples[index]}")
        self.found.append(found)

    @property
    def mean(self) -> float:
        """Over all samples so far."""
        return float(np.mean(self.found)) if self.found else 0.0

    @property
    def doubt(self) -> float:
        """Standard error of the mean difference from the float model: few samples can be lucky."""
        differences = np.subtract(self.found, self._of_float[: len(self.found)])
        if len(differences) < 2:
            return 0.0
        return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def open_metric(
    metric: str | Score | None,
    labels: Any,
    data: CalibrationData,
    samples: Sequence[int],
) -> Metric | None:
    """The user's metric, or top-1 accuracy if there are labels.

    Args:
        metric: A function of outputs by name and the number of a sample, or "file.py:function".
        labels: One class for each row of the data, in order: an array, a .npy file, or a text file
            with one number a line.
        data: What the model runs on.
        samples: Which of it is measured.

    Raises:
        InvalidInputError: There is no such function or file, or the labels do not fit the data.
    """
    if metric is not None and labels is not None:
        raise InvalidInputError("labels and a metric are both given: give one of them")
    if (metric is not None or labels is not None) and data.synthesized:
        raise InvalidInputError("a metric or labels need the data they belong to: --calibration")
    if labels is not None:
        return Metric(_Top1(_read_labels(labels), data), samples, "top-1 accuracy")
    if metric is None:
        return None
    if isinstance(metric, str):
        if not names_function(metric):
            raise InvalidInputError(f"{metric!r} is no metric: file.py:function or module:function")
        return Metric(find_function(metric), samples, metric)
    return Metric(metric, samples, getattr(metric, "__name__", "the metric"))


class _Top1:
    """Share of the rows of the first output whose largest entry is at the label."""

    def __init__(self, labels: NDArray[np.int64], data: CalibrationData) -> None:
        self._labels, self._positions = labels, data.positions
        self._rows = _rows_of(data[0].feeds)
        most = self._rows * data.given
        if not most - self._rows < len(labels) <= most:
            raise InvalidInputError(
                f"{len(labels)} labels do not fit {data.given} samples of {self._rows} rows each; "
                "there has to be one for each row, and all samples but the last of one size"
            )

    def __call__(self, outputs: Mapping[str, Any], sample: int) -> float:
        start = self._positions[sample] * self._rows
        labels = self._labels[start : start + self._rows]
        name, scores = next(iter(outputs.items()))
        scores = np.asarray(scores)
        if not len(labels) or not scores.ndim or len(scores) != len(labels):
            raise InvalidInputError(
                f"output {name!r} of shape {list(scores.shape)} is no row of scores for each of "
                f"{len(labels)} labels; give a metric of your own"
            )
        return float(np.mean(scores.reshape(len(scores), -1).argmax(axis=1) == labels))


def _rows_of(feeds: Mapping[str, Any]) -> int:
    shape = np.shape(next(iter(feeds.values())))
    return shape[0] if shape else 1


def _read_labels(labels: Any) -> NDArray[np.int64]:
    source = "the labels"
    found: Any = labels
    if isinstance(labels, (str, os.PathLike)):
        path = Path(labels)
        source = str(path)
        if path.suffix.lower() not in _SUFFIXES:
            raise InvalidInputError(f"{path}: labels are in {', '.join(_SUFFIXES)} files")
        try:
            if path.suffix.lower() == ".npy":
                found = np.load(path, allow_pickle=False)
            else:
                found = [int(line) for line in path.read_text().split()]
        except OSError as error:
            raise InvalidInputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, EOFError) as error:
            raise InvalidInputError(f"{path}: holds no labels, one number each: {error}") from error
    try:
        array = np.asarray(found)
    except ValueError as error:  # lists of different lengths
        raise InvalidInputError(f"{source} are no list of whole numbers: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
        raise InvalidInputError(f"{source} are no list of whole numbers, one for each row")
    return array.astype(np.int64)

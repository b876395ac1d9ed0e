"""Scores of predictions against labels: named ones, or a function of the user's."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.user_functions import find_function, names_function, user_code

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


def top1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of rows whose largest entry is at the label; of classes, share of equal ones."""
    if predictions.ndim == labels.ndim:
        return float(np.mean(predictions == labels))
    return float(np.mean(predictions.argmax(axis=-1) == labels))


def top5(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of rows with the label among the five largest entries."""
    count = min(5, predictions.shape[-1])
    best = np.argpartition(predictions, -count, axis=-1)[..., -count:]
    return float(np.mean((best == labels[..., None]).any(axis=-1)))


def mse(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean squared error."""
    return float(np.mean(np.square(_same(predictions, labels) - labels, dtype=np.float64)))


def mae(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(_same(predictions, labels) - labels), dtype=np.float64))


def cosine(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean cosine of the angle between rows of predictions and labels."""
    first = _same(predictions, labels).reshape(len(labels), -1)
    second = labels.reshape(len(labels), -1).astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean((first * second).sum(axis=1) / np.maximum(norms, 1e-30)))


def f1(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """F1 score, the mean over all classes that occur (macro)."""
    found = predictions if predictions.ndim == labels.ndim else predictions.argmax(axis=-1)
    scores = []
    for label in np.union1d(found, labels):
        hits = np.sum((found == label) & (labels == label))
        scores.append(2 * hits / (np.sum(found == label) + np.sum(labels == label)))
    return float(np.mean(scores))


METRICS: Mapping[str, Metric] = {
    "top1": top1,
    "accuracy": top1,
    "top5": top5,
    "mse": mse,
    "mae": mae,
    "cosine": cosine,
    "f1": f1,
}
_OF_CLASSES = frozenset({"top1", "accuracy", "top5", "f1"})


def read_labels(labels: Any) -> NDArray[Any]:
    """Labels from an array or a file.

    A .npy file, a .npz file with one array or one named "labels", or a .txt file with one number
    for each row.

    Raises:
        InvalidInputError: They cannot be read.
    """
    if not isinstance(labels, (str, os.PathLike)):
        return np.asarray(labels)
    path = Path(labels)
    try:
        if path.suffix.lower() == ".txt":
            return np.array([int(word) for word in path.read_text().split()])
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded:
            names = list(loaded.files)
            chosen = "labels" if "labels" in names else names[0] if len(names) == 1 else None
            if chosen is None:
                raise InvalidInputError(
                    f"{path}: holds {', '.join(names)}; name the labels' array 'labels'"
                )
            return np.asarray(loaded[chosen])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "" if "pickle" in str(error) else f": {error}"  # NumPy would advise to trust it
        raise InvalidInputError(
            f"{path}: cannot read the labels{reason}; give a .npy, .npz or .txt file"
        ) from error


def find_metric(metric: Any, predictions: NDArray[Any], labels: NDArray[Any]) -> tuple[str, Metric]:
    """The metric and its name; chosen by predictions and labels if it is None.

    Args:
        metric: A name, `module:function`, `file.py:function`, a function, or None.
        predictions: Of a model.
        labels: The labels.

    Raises:
        InvalidInputError: There is no such metric.
    """
    if metric is None:
        classes = labels.dtype.kind in "biuUSO"
        metric = "top1" if classes else "mse"
    if callable(metric):
        return getattr(metric, "__name__", "metric"), metric
    if metric in METRICS:
        return metric, METRICS[metric]
    if not names_function(metric):
        raise InvalidInputError(
            f"no metric {metric!r}; there are {', '.join(METRICS)}, module:function and "
            "file.py:function"
        )
    return metric, find_function(metric)


def score(name: str, metric: Metric, predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """The score of a model.

    Raises:
        InvalidInputError: Labels and predictions do not fit each other, or the function fails.
    """
    if len(labels) != len(predictions):
        raise InvalidInputError(
            f"there are {len(labels)} labels for {len(predictions)} predictions; give one for each "
            "row of the inputs"
        )
    if name in _OF_CLASSES and labels.ndim not in (predictions.ndim, predictions.ndim - 1):
        raise InvalidInputError(
            f"{name} needs labels of shape {list(predictions.shape[:-1])}, not {list(labels.shape)}"
        )
    shapes = f"predictions {list(predictions.shape)} and labels {list(labels.shape)}"
    with user_code(f"metric {name} fails on {shapes}"):
        return float(metric(predictions, labels))


def _same(predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    wide: NDArray[Any] = predictions.reshape(labels.shape).astype(np.float64)
    return wide

"""What a model differs from itself by when it is computed in other ways; measured once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.inputs.trials import Trials, run_sets
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.session import Feeds, ModelSource, Optimization, Session

Open = Callable[..., Session]

# How much inputs are shaken to see what roundings grow to: two units in the last place of float32.
_SHAKE = 2.4e-7


@dataclasses.dataclass(frozen=True)
class Noise:
    """The original against itself, computed in one other way.

    Attributes:
        optimization: The level of ONNX Runtime's optimization.
        differences: Output name to the worst difference.
        plain: What it computed, if that was without ONNX Runtime's optimizations.
    """

    optimization: Optimization
    differences: dict[str, Difference]
    plain: Trials | None


class NoiseRuns:
    """Runs the original in other ways, one after the other, and only as far as somebody asks.

    Args:
        original: The model.
        open_: Opens a session of a model, with an optimization level and a number of threads.
        optimization: The level that it is usually run at.
    """

    def __init__(self, original: ModelSource, open_: Open, optimization: Optimization) -> None:
        self._original = original
        self._open = open_
        self._optimization = optimization
        self._found: list[Noise | None] = []

    def against(self, first: Trials, names: Sequence[str]) -> Iterator[Noise]:
        """The differences from `first`, which has to be the same at every call."""
        ways: tuple[tuple[Optimization, dict[str, int], Sequence[InputSet]], ...] = (
            ("disabled", {}, first.sets),
            (self._optimization, {"threads": 1}, first.sets),
            (self._optimization, {"threads": 1}, shaken_sets(first.sets)),
        )
        for index, (optimization, settings, sets) in enumerate(ways):
            if index == len(self._found):
                self._found.append(self._run(first, names, optimization, settings, sets))
            noise = self._found[index]
            if noise is not None:
                yield noise

    def _run(
        self,
        first: Trials,
        names: Sequence[str],
        optimization: Optimization,
        settings: dict[str, int],
        sets: Sequence[InputSet],
    ) -> Noise | None:
        try:
            other = run_sets(self._open(self._original, optimization, **settings), sets)
        except CannotRunError:
            return None  # some models load at one level only
        plain = other if optimization == "disabled" else None
        return Noise(optimization, differences_of(first, other, names), plain)


def differences_of(reference: Trials, other: Trials, names: Sequence[str]) -> dict[str, Difference]:
    """The worst difference of each output over all runs."""
    found: dict[str, Difference] = {}
    for one, two in zip(reference.outputs, other.outputs, strict=True):
        for name in names:
            difference = compare(one[name], two[name])
            found[name] = found[name].merge(difference) if name in found else difference
    return found


def shaken_sets(sets: Sequence[InputSet]) -> list[InputSet]:
    """The same inputs with a rounding of difference in every float."""
    return [dataclasses.replace(one, feeds=_shaken(one.feeds)) for one in sets]


def _shaken(feeds: Feeds) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shaken = dict(feeds)
    for name, array in feeds.items():
        if isinstance(array, np.ndarray) and array.dtype in (np.float32, np.float64):
            factor = 1 + _SHAKE * rng.choice([-1.0, 1.0], size=array.shape)
            shaken[name] = (array * factor).astype(array.dtype)
    return shaken

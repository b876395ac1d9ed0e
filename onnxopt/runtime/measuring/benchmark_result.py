"""What a benchmark found, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.measuring.load_cost import LoadCost
from onnxopt.runtime.measuring.profiling import Profile
from onnxopt.runtime.measuring.ratio import Ratio


@dataclasses.dataclass(frozen=True)
class ModelBenchmark:
    """Figures of one model.

    Attributes:
        name: The model in words, mostly its file name.
        seconds: Latency of every timed run.
        batch: Items in a run.
        load: What a new process needs for it; None if that could not be measured.
        profile: Where its time goes; None if not asked for.
        ratio: How many times as fast as the first model it is; None for that one.
    """

    name: str
    seconds: NDArray[np.float64]
    batch: int
    load: LoadCost | None = None
    profile: Profile | None = None
    ratio: Ratio | None = None

    def percentile(self, percent: float) -> float:
        """A percentile of the latency in seconds."""
        return float(np.percentile(self.seconds, percent))

    @property
    def throughput(self) -> float:
        """Items per second, one run after the other, at the median latency."""
        return self.batch / self.percentile(50)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data; latencies in milliseconds."""
        return {
            "name": self.name,
            "runs": len(self.seconds),
            "latency_ms": {
                f"p{percent}": self.percentile(percent) * 1e3 for percent in (50, 90, 99)
            },
            "throughput": self.throughput,
            "load": None if self.load is None else dataclasses.asdict(self.load),
            "ratio": None if self.ratio is None else self.ratio.to_dict(),
            "profile": None if self.profile is None else self.profile.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """Figures of all models that were measured together.

    Attributes:
        models: In the order given; ratios are to the first.
        inputs: What they were run on, in words.
        settings: Provider, threads, optimization level, sessions per model, rounds.
        notes: What limits the figures.
    """

    models: tuple[ModelBenchmark, ...]
    inputs: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "models": [model.to_dict() for model in self.models],
            "inputs": self.inputs,
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }

"""How far `onnxopt bench` can be trusted: false alarms, and differences that it finds.

    python benchmarks/bench_reliability.py models/digits_transformer.onnx --runs 100 --seconds 2

Each run opens new sessions, as a new `onnxopt bench` does, and measures a model against its own
copy once as it is and once with a planted delay of 10 % of its latency in each run of the copy.
Prints how often the verdict is right, the spread of the ratios, and the mean width of the interval.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from onnxopt.runtime.measuring.benchmark_models import Bench
from onnxopt.runtime.measuring.benchmark_settings import BenchmarkSettings
from onnxopt.runtime.measuring.interleaving import Call
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.session import Feeds, Session


def slowed(call: Call, seconds: float) -> Call:
    """The call, followed by this much work that computes nothing."""

    def run() -> object:
        result = call()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return result

    return run


class PlantedBench(Bench):
    """A benchmark whose second model is slower by a share of its latency."""

    def __init__(self, models: list[Path], settings: BenchmarkSettings, share: float) -> None:
        super().__init__(models, settings)
        self._share = share
        self._extra = 0.0

    def call(self, index: int, session: Session, feeds: Feeds) -> Call:
        """One run, with the delay if it is one of the second model."""
        call = super().call(index, session, feeds)
        if not self._share:
            return call
        if index == 0:
            self._extra = self._share * float(np.median([_seconds(call) for _ in range(25)]))
            return call
        return slowed(call, self._extra)


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(models: list[Path], seconds: float, share: float, batch: int | None) -> Ratio:
    settings = BenchmarkSettings(seconds=seconds, load=False)
    ratio = PlantedBench(models, settings, share).run(None, batch, None).models[1].ratio
    assert ratio is not None
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--json", type=Path, help="also write all ratios here")
    arguments = parser.parse_args()
    found: dict[str, list[Ratio]] = {"copy": [], "planted 10 %": []}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(arguments.model, Path(folder) / "copy.onnx"))
        for _ in range(arguments.runs):
            for name, share in (("copy", 0.0), ("planted 10 %", 0.1)):
                models = [arguments.model, copy]
                found[name].append(measure(models, arguments.seconds, share, arguments.batch))
            if arguments.json:  # after every run: a hundred of them take minutes
                data = {name: [one.to_dict() for one in ratios] for name, ratios in found.items()}
                arguments.json.write_text(json.dumps(data, indent=1))
    for name, ratios in found.items():
        medians = np.array([ratio.median for ratio in ratios])
        width = np.mean([ratio.high / ratio.low - 1 for ratio in ratios]) / 2
        print(
            f"{name}: {dict(Counter(ratio.verdict for ratio in ratios))}, ratio "
            f"{medians.min():.3f} to {medians.max():.3f}, mean interval +- {width:.1%}"
        )


if __name__ == "__main__":
    main()

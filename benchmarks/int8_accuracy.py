"""Accuracy of real models on their tasks before and after `onnxopt quantize`.

    python benchmarks/int8_accuracy.py FOLDER [--tasks NAME ...] [--samples 100]
        [--force] [--by-task] [--exclude GLOB ...]

FOLDER/evalkit.py has FEED_TASKS: task -> (model file, feeds, score). Every fourth sample calibrates
(at most 64), all of them are scored, by the float and by the quantized model; `same` is the share
of samples on which both have the largest entry of the first output at the same place. With --force
the static form is scored also where auto would write the float model. With --by-task the search
judges by the task's own score of each sample instead of by the distance of the outputs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from int8_real_models import load_kit

import onnxopt
from onnxopt.core.errors import OnnxOptError
from onnxopt.runtime.session import open_session

_MOST_CALIBRATION = 64


def judge(
    score: Callable[..., Mapping[str, float]], metas: Sequence[Any]
) -> Callable[[Mapping[str, Any], int], float]:
    """A metric for `quantize`: the task's score of one sample, the higher the better."""

    def metric(outputs: Mapping[str, Any], index: int) -> float:
        name, value = next(iter(score([list(outputs.values())], [metas[index]]).items()))
        return -value if "error" in name else value

    return metric


def main() -> None:
    """Prints one line for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--budget", type=float, default=180.0)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--by-task", action="store_true")
    parser.add_argument("--exclude", nargs="+", default=[])
    arguments = parser.parse_args()
    for task, (path, feeds, score) in load_kit(arguments.folder).FEED_TASKS.items():
        source = arguments.folder / path
        if not source.exists() or score is None:
            continue
        if arguments.tasks and task not in arguments.tasks:
            continue
        drawn = list(itertools.islice(feeds(arguments.samples), arguments.samples))
        samples = [feed for feed, _ in drawn]
        chosen = drawn[:: max(1, min(4, len(samples) // 16))][:_MOST_CALIBRATION]
        calibration = [feed for feed, _ in chosen]
        options: dict[str, Any] = {"calibration": calibration, "budget": arguments.budget}
        options["exclude"] = arguments.exclude
        if arguments.by_task:
            options["metric"] = judge(score, [meta for _, meta in chosen])
        if arguments.force:
            options |= {"mode": "static", "force": True}
        try:
            found = onnxopt.quantize(source, **options)
        except OnnxOptError as error:
            print(f"{task:20} {error}", flush=True)
            continue
        results = []
        for model in (source, found.model):
            session = open_session(model)
            results.append([list(session.run(feed).values()) for feed in samples])
        scores = [score(outputs, [meta for _, meta in drawn]) for outputs in results]
        same = np.mean(
            [
                np.argmax(np.asarray(one[0])) == np.argmax(np.asarray(other[0]))
                for one, other in zip(*results, strict=True)
            ]
        )
        speed = "" if found.report.speed is None else f"{found.report.speed:.2f}x"
        print(f"{task:20} {found.report.chosen} {speed} same {same:.3f}")
        print(f"{'':20} float {scores[0]}\n{'':20} 8-bit {scores[1]}", flush=True)


if __name__ == "__main__":
    main()

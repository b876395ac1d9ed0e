"""How fast the model of a bundle is, beside what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.graph.loading import load_model
from onnxopt.runtime.bundles.tuning import turn_taking_call
from onnxopt.runtime.inputs.bench_inputs import bench_inputs, plan_bench_inputs
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.measuring.interleaving import time_interleaved
from onnxopt.runtime.measuring.ratio import ratio_between
from onnxopt.runtime.measuring.session_count import affordable_sessions
from onnxopt.runtime.session_settings import SessionSettings

_SESSIONS = 5
_LONGEST = 2.0


def timing_inputs(model: Path, settings: SessionSettings, inputs: Any) -> InputSet:
    """What a model is timed on: the user's first input set, or one of usual size.

    Raises:
        InvalidInputError: The model does not run on it.
    """
    return bench_inputs(settings.open(model), plan_bench_inputs(load_model(model), inputs))


def time_models(
    models: Sequence[tuple[Path, SessionSettings]], one: InputSet, seconds: float
) -> dict[str, Any]:
    """Latency of the last model, and how many times as fast as the first it is.

    Args:
        models: One or two files with the settings to open them with.
        one: What they run on.
        seconds: How long to measure.

    Returns:
        `latency_ms` (p50, p90), `inputs`, and of two models `ratio`.
    """
    opened = [[turn_taking_call(path, settings, one.feeds)] for path, settings in models]
    trial = time_interleaved([calls[0] for calls in opened], seconds=0.0)
    graphs = [load_model(path) for path, _ in models]
    count = affordable_sessions(
        graphs, float(np.median(trial.rounds, axis=0).sum()), seconds, _SESSIONS
    )
    for calls, (path, settings) in zip(opened, models, strict=True):
        calls += [turn_taking_call(path, settings, one.feeds) for _ in range(count - 1)]
    every = [call for calls in opened for call in calls]
    timings = time_interleaved(every, seconds=seconds, longest=_LONGEST)
    last = range(len(every) - count, len(every))
    runs = np.concatenate([timings.runs[column] for column in last]) * 1e3
    found: dict[str, Any] = {
        "latency_ms": {f"p{q}": round(float(np.percentile(runs, q)), 4) for q in (50, 90)},
        "inputs": one.description,
        "ratio": None,
    }
    if len(models) > 1:
        found["ratio"] = ratio_between(timings.rounds, range(count), last).to_dict()
    return found

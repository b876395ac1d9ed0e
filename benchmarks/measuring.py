"""Measuring whole processes (seconds, peak memory) and pairs of models (latency ratios)."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished process.

    Attributes:
        seconds: Wall time, imports included.
        peak_mb: Largest resident set, in MB (10^6 bytes); mapped file pages that it touched count.
        code: Exit code.
        output: What it printed.
    """

    seconds: float
    peak_mb: float
    code: int
    output: str


def run_process(command: Sequence[str], *, timeout: float = 900) -> Run:
    """Runs a command and measures it. A time-out counts as exit code 124."""
    # Compiled modules are what users have; a machine that forbids writing them would time imports.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.NamedTemporaryFile(suffix=".json") as figures:
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), figures.name, *command]
        try:
            done = subprocess.run(
                launcher,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Run(timeout, 0.0, 124, "time-out")
        measured = json.loads(Path(figures.name).read_text())
    return Run(output=done.stdout.decode(errors="replace"), **measured)


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session with ONNX Runtime's full optimization."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def latency_ratios(
    base: ort.InferenceSession,
    others: Sequence[ort.InferenceSession],
    feeds: Mapping[str, Any],
    *,
    seconds: float = 4.0,
    burst: int = 1,
) -> list[tuple[float, float, float]]:
    """How many times faster than `base` each session is, with a 95 % interval of the ratio.

    Interleaved rounds: every round runs each session once, in an order that rotates, so that drift
    of the machine hits all alike. The ratio is the median over rounds, the interval a bootstrap.

    Args:
        base: What the others are compared with.
        others: The sessions.
        feeds: Inputs that all of them take.
        seconds: How long to measure.
        burst: Runs of a session in a row, of which the fastest counts. After a run the threads of
            a session spin for a while, waiting for another one: models of a few milliseconds
            should not be timed while those of the session before still do.

    Returns:
        For each of `others`: (median ratio, lower, upper); above 1 is faster than `base`.
    """
    sessions = [base, *others]
    for session in sessions:
        for _ in range(2):
            session.run(None, feeds)
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < 7:
        times = [0.0] * len(sessions)
        for offset in range(len(sessions)):
            index = (offset + len(rounds)) % len(sessions)
            found = []
            for _ in range(burst):
                start = time.perf_counter()
                sessions[index].run(None, feeds)
                found.append(time.perf_counter() - start)
            times[index] = min(found)
        rounds.append(times)
    table = np.array(rounds)
    ratios = table[:, :1] / table[:, 1:]
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(ratios), (1000, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5], axis=0)
    middle = np.median(ratios, axis=0)
    return [tuple(map(float, row)) for row in zip(middle, low, high, strict=True)]

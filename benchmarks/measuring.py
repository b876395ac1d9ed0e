"""Measuring whole processes (seconds, peak memory) and pairs of models (latency ratios)."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


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


def run_process(command: Sequence[str], *, timeout: float = 600) -> Run:
    """Runs a command and measures it. A time-out counts as exit code 124."""
    start = time.perf_counter()
    # Compiled modules are what users have; a machine that forbids writing them would time imports.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return Run(time.perf_counter() - start, 0.0, 124, "time-out")
    seconds = time.perf_counter() - start
    return Run(seconds, 0.0, process.returncode, output.decode(errors="replace"))


def run_measured(command: Sequence[str]) -> Run:
    """Like `run_process`, with the peak memory of the process and its children's children."""
    start = time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader:
        process = subprocess.Popen(command, stdout=write_end, stderr=write_end, env=environment)
        os.close(write_end)
        output = reader.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    return Run(
        seconds, usage.ru_maxrss * 1024 / 1e6, process.returncode, output.decode(errors="replace")
    )


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
) -> list[tuple[float, float, float]]:
    """How many times faster than `base` each session is, with a 95 % interval of the ratio.

    Interleaved rounds: every round runs each session once, in an order that rotates, so that drift
    of the machine hits all alike. The ratio is the median over rounds, the interval a bootstrap.

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
            start = time.perf_counter()
            sessions[index].run(None, feeds)
            times[index] = time.perf_counter() - start
        rounds.append(times)
    table = np.array(rounds)
    ratios = table[:, :1] / table[:, 1:]
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(ratios), (1000, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5], axis=0)
    middle = np.median(ratios, axis=0)
    return [tuple(map(float, row)) for row in zip(middle, low, high, strict=True)]

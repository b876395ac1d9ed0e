"""How long a model takes to load and how much memory that needs, measured in new processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from onnxopt.runtime.session import Feeds, Optimization, level_name

_PROBE = Path(__file__).with_name("load_probe.py")
_REPETITIONS = 3
# A model that takes longer to load is loaded once: the figure is steady enough.
_LONG_SECONDS = 2.0
_TIMEOUT = 600.0


@dataclasses.dataclass(frozen=True)
class LoadCost:
    """What a new process needs for a model.

    Attributes:
        load_seconds: From the file to a session, the median of several processes.
        first_run_seconds: The first run after that.
        peak_bytes: Largest resident memory of the process; 0 if this system does not tell.
        base_bytes: How much of that ONNX Runtime and Python need without a model.
    """

    load_seconds: float
    first_run_seconds: float
    peak_bytes: int
    base_bytes: int


def measure_load(
    path: str | os.PathLike[str],
    feeds: Feeds,
    *,
    providers: Sequence[str],
    threads: int | None = None,
    optimization: Optimization = "all",
    disabled_optimizers: Sequence[str] = (),
) -> LoadCost | None:
    """Loads a model in new processes and runs it once in each.

    Returns:
        The cost, or None if the process fails or takes too long.
    """
    options = json.dumps(
        {
            "providers": list(providers),
            "threads": threads,
            "level": level_name(optimization),
            "disabled": list(disabled_optimizers),
        }
    )
    found: list[LoadCost] = []
    with tempfile.TemporaryDirectory() as folder:
        stored = _store(feeds, Path(folder) / "feeds.npz")
        command = [sys.executable, "-P", str(_PROBE), os.fspath(path), options, stored]
        while len(found) < _REPETITIONS:
            try:
                done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=True)
                found.append(LoadCost(**json.loads(done.stdout)))
            except (subprocess.SubprocessError, ValueError, TypeError):
                return None
            if found[-1].load_seconds > _LONG_SECONDS:
                break
    return LoadCost(
        median(one.load_seconds for one in found),
        median(one.first_run_seconds for one in found),
        max(one.peak_bytes for one in found),
        min(one.base_bytes for one in found),
    )


def _store(feeds: Feeds, path: Path) -> str:
    """Writes the inputs; returns an empty text if a file of arrays cannot hold them."""
    if any(not isinstance(a, np.ndarray) or a.dtype.kind not in "biufc" for a in feeds.values()):
        return ""
    arrays: dict[str, Any] = dict(feeds)
    np.savez(path, **arrays)
    return str(path)

"""`block_size="auto"`: for each shape the smallest block that is as fast as any, measured here.

What was measured is kept by machine, version of ONNX Runtime and number of threads in
`$ONNXOPT_CACHE`, or `~/.cache/onnxopt`, as block_sizes.json; it can be deleted at any time. Figures
from a busy machine are used, and said to be, but not kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from onnxopt.instruction_sets import detect_isa

SIZES = (32, 64, 128)
# A difference that small is not worth the accuracy that a larger block costs.
_MARGIN = 1.03
_FILE = "block_sizes.json"

Shape = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What, besides the shape, decides how fast a product is.

    Attributes:
        bits: Of the weight.
        symmetric: Without zero points.
        accuracy_level: Of MatMulNBits.
        threads: Of the session; None for ONNX Runtime's choice.
    """

    bits: int
    symmetric: bool
    accuracy_level: int
    threads: int | None = None

    def key(self, shape: Shape) -> str:
        """A name for a product of that shape, [K, N]."""
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{shape[0]}x{shape[1]} {self.bits} bits {kind} level {self.accuracy_level}"


def choose_block_sizes(
    shapes: Collection[Shape], settings: Settings
) -> dict[Shape, tuple[int, str]]:
    """The block size of each shape, with a line that says how fast all sizes were.

    Args:
        shapes: K and N of weights.
        settings: How they will be run.

    Raises:
        OnnxOptError: ONNX Runtime is missing, or has no such kernel.
    """
    from onnxopt.runtime.measuring.block_timing import time_block_sizes

    path, machine = _cache_file(), _machine(settings.threads)
    known = _read(path)
    mine = known.get(machine)
    if not isinstance(mine, dict):
        mine = known[machine] = {}
    chosen, learned = {}, False
    for shape in sorted(shapes):
        key = settings.key(shape)
        if _is_valid(mine.get(key)):
            chosen[shape] = _choice(shape, mine[key])
            continue
        found = time_block_sizes(
            shape,
            SIZES,
            bits=settings.bits,
            symmetric=settings.symmetric,
            accuracy_level=settings.accuracy_level,
            threads=settings.threads,
        )
        size, line = _choice(shape, found.seconds)
        if found.steady:
            mine[key], learned = found.seconds, True
        else:
            line += "; the machine was busy: measure again when it is not"
        chosen[shape] = size, line
    if learned:
        _write(path, known)
    return chosen


def _choice(shape: Shape, seconds: list[float]) -> tuple[int, str]:
    least = min(seconds)
    size = next(s for s, taken in zip(SIZES, seconds, strict=True) if taken <= _MARGIN * least)
    times = ", ".join(f"{s} {t / least:.2f}" for s, t in zip(SIZES, seconds, strict=True))
    return size, f"{shape[0]} x {shape[1]}: blocks of {size} (time by size: {times})"


def _is_valid(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == len(SIZES)
        and all(isinstance(one, float) and one > 0 for one in entry)
    )


def _machine(threads: int | None) -> str:
    version = "?"
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(package)
    name = platform.processor() or platform.machine()
    cores = os.cpu_count()
    return f"{platform.node()}, {name} {detect_isa()} x{cores}, {version}, threads {threads}"


def _cache_file() -> Path:
    folder = os.environ.get("ONNXOPT_CACHE") or "~/.cache/onnxopt"
    return Path(folder).expanduser() / _FILE


def _read(path: Path) -> dict[str, Any]:
    """What was measured before; nothing if the file cannot be used, which only costs time."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, known: dict[str, Any]) -> None:
    """Keeps it, if that is possible: a folder that cannot be written to only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8"
        ) as file:
            json.dump(known, file, indent=1)
        Path(file.name).replace(path)

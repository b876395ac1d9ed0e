"""Every model of the hostile corpus through the whole command, with its time and memory.

    python benchmarks/hostile_corpus.py [NAME ...]

A model that is accepted is run in ONNX Runtime as well; `--parity-timeout 1` stops loops that do
not end. The limits are 2 seconds more than the command takes on a model of three nodes, and 1 GB
for the command and its child together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.broken_models import make_model
from helpers.hostile import CASES

_SECONDS = 2.0
_BYTES = 1 << 30


def run(model: Path) -> tuple[int, float, float, int, str]:
    """Exit code, seconds, seconds of CPU, peak bytes of the process tree, lines of stderr.

    Seconds of CPU are what a machine that does nothing else would take at most.
    """
    command = [sys.executable, "-m", "onnxopt", "optimize", str(model), "-q"]
    command += ["-o", str(model.parent.parent / "out.onnx"), "--parity-timeout", "1"]
    start, used = time.perf_counter(), _cpu_seconds()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    tree, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            family = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    assert process.stderr is not None
    lines = process.stderr.read().splitlines()
    return process.returncode, seconds, _cpu_seconds() - used, peak, " | ".join(lines)


def _cpu_seconds() -> float:
    """Of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "in" / "model.onnx"
        plain.parent.mkdir()
        plain.write_bytes(make_model().SerializeToString())
        base, cpu = (
            min(figures) for figures in zip(*(run(plain)[1:3] for _ in range(3)), strict=True)
        )
    print(f"a model of three nodes takes {base:.2f} s, {cpu:.2f} s of CPU\n")
    over = []
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            model = CASES[name](Path(scratch) / "in")
            code, seconds, cpu, peak, said = run(model)
            left = {path.name for path in Path(scratch).iterdir()} - {"in", "out.onnx"}
        fine = seconds < base + _SECONDS and peak < _BYTES and code in (0, 2) and not left
        over += [] if fine else [name]
        said = said.replace(scratch, "...")[:110]
        print(
            f"{name:40} exit {code}  {seconds:5.2f} s  {cpu:5.2f} s CPU  {peak >> 20:5} MB  {said}",
            flush=True,
        )
    print(
        f"\n{len(names or CASES)} models, {len(over)} beyond the limits: {', '.join(over) or '-'}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

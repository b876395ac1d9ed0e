"""Checks that crash the process they run in, as native code does on a hostile model."""

from __future__ import annotations

import os
import time
from pathlib import Path

from onnxopt.runtime.inputs.plan import InputPlan
from onnxopt.runtime.parity.result import ParityResult


def crash(result: Path, original: Path, plan: InputPlan) -> ParityResult:
    """Crashes whatever it is given."""
    os.abort()


def crash_on_b(result: Path, original: Path, plan: InputPlan) -> ParityResult:
    """Crashes on a file called b.onnx and finds every other at parity."""
    if result.name == "b.onnx":
        os.abort()
    return ParityResult("passed")


def hang(result: Path, original: Path, plan: InputPlan) -> ParityResult:
    """Takes longer than anybody waits."""
    time.sleep(600)
    return ParityResult("passed")


def crash_conversion(path: str, version: int) -> None:
    """A converter that ends its process."""
    os.abort()


def hang_conversion(path: str, version: int) -> None:
    """A converter that does not end."""
    time.sleep(600)

"""What a model is optimized for. So far: the execution provider that will run it."""

from __future__ import annotations

import importlib.metadata
from typing import Literal

Target = Literal["cpu", "cuda"]


def detect_target() -> Target:
    """Says "cuda" if the installed ONNX Runtime is the build for it, else "cpu".

    Reads the metadata of the installed packages; ONNX Runtime itself is not imported.
    """
    try:
        importlib.metadata.distribution("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return "cpu"
    return "cuda"

"""The models of a benchmark: files or models in memory, and what they are called in results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

Source = str | os.PathLike[str] | ir.Model


def as_source(model: Source) -> Path | ir.Model:
    """What a session is opened from."""
    return model if isinstance(model, ir.Model) else Path(model)


def model_names(models: Sequence[Source]) -> list[str]:
    """File names; whole paths where they are the same."""
    paths = [
        Path(getattr(m.graph, "name", None) or "model") if isinstance(m, ir.Model) else Path(m)
        for m in models
    ]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]

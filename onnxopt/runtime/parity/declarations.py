"""What a model declares about its inputs and outputs, against another model and its own results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxopt.runtime.inputs.dimensions import evaluate, free_symbols, is_placeholder
from onnxopt.runtime.inputs.trials import Trials
from onnxopt.runtime.session import Declared, Session


def interface_complaints(
    inputs: Sequence[Declared], outputs: Sequence[Declared], session: Session
) -> list[str]:
    """How the optimized model's inputs and outputs differ from the original's.

    Args:
        inputs: Of the original.
        outputs: Of the original.
        session: The optimized model.
    """
    complaints: list[str] = []
    for what, before, after in (
        ("inputs", inputs, session.inputs),
        ("outputs", outputs, session.outputs),
    ):
        names = [value.name for value in before]
        new_names = [value.name for value in after]
        if names != new_names:
            complaints.append(f"{what} {new_names}, not {names}")
            continue
        complaints += [
            f"{what[:-1]} {old.name!r} is {new.type}, not {old.type}"
            for old, new in zip(before, after, strict=True)
            if old.type != new.type
        ]
    return complaints


def shape_complaints(session: Session, trials: Trials) -> list[str]:
    """Where results contradict the shapes that the model declares for them.

    A symbol has one size in a run: that of the inputs, or of the first output that has it.
    """
    complaints: list[str] = []
    for one, outputs in zip(trials.sets, trials.outputs, strict=True):
        sizes: dict[str, int] = {}
        for declared in session.inputs:
            _bind(declared, one.feeds.get(declared.name), sizes)
        for declared in session.outputs:
            result = outputs[declared.name]
            if not isinstance(result, np.ndarray) or not declared.shape:
                continue  # ONNX Runtime shows an unknown rank as a scalar's
            if result.ndim != len(declared.shape) or not _fits(declared, result, sizes):
                shape = [dim if dim is not None else "?" for dim in declared.shape]
                complaints.append(
                    f"output {declared.name!r} is declared as {shape} "
                    f"and comes out as {list(result.shape)} at {one.description}"
                )
    return complaints


def _bind(declared: Declared, array: Any, sizes: dict[str, int]) -> None:
    for dim, size in zip(declared.shape, getattr(array, "shape", ()), strict=False):
        if isinstance(dim, str) and not is_placeholder(dim) and free_symbols(dim) == (dim,):
            sizes.setdefault(dim, size)


def _fits(declared: Declared, result: Any, sizes: dict[str, int]) -> bool:
    for dim, size in zip(declared.shape, result.shape, strict=True):
        if isinstance(dim, int):
            if dim not in (size, -1, 0):
                return False
        elif dim is not None and not is_placeholder(dim):
            expected = evaluate(dim, sizes)
            if expected is None and free_symbols(dim) == (dim,):
                sizes[dim] = size
            elif expected is not None and expected != size:
                return False
    return True

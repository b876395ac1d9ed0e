"""The smallest set of nodes that has to stay in float32, by halving.

What the ranges of values do not show (a difference of large numbers, a long sum) shows in the
outputs. Sets of neighbouring nodes are given back to half precision as long as the outputs stay
within the tolerance: the set that is left is small, if not always the smallest there is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.probing import as_declared
from onnxopt.runtime.session import open_session

Outputs = Sequence[Mapping[str, Any]]


def outputs_of(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a model computes.

    Raises:
        CannotRunError: ONNX Runtime refuses it.
    """
    session = open_session(model, spinning=False)
    return [session.run(as_declared(session, one)) for one in feeds]


def relative_error(wanted: Outputs, found: Outputs) -> float:
    """Largest relative root mean square over outputs and sets; infinite if a NaN came up."""
    worst = 0.0
    for one, other in zip(wanted, found, strict=True):
        for name, array in one.items():
            if getattr(array, "dtype", np.dtype(bool)).kind not in "fV":
                continue
            a, b = (np.asarray(x).astype(np.float64) for x in (array, other[name]))
            usable = np.isfinite(a)
            if not np.isfinite(b[usable]).all():
                return float("inf")
            size = float(np.linalg.norm(a[usable]))
            difference = float(np.linalg.norm(a[usable] - b[usable]))
            worst = max(worst, difference / size if size else difference)
    return worst


def find_float32(
    nodes: Sequence[str],
    passes: Callable[[Sequence[str]], bool],
    *,
    tries: int = 32,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """The nodes to keep in float32.

    Args:
        nodes: All that could be half, in topological order.
        passes: Whether the model is good enough if these stay in float32. True of all of them.
        tries: How often to ask.
        seconds: How long to ask; what has passed by then is returned.
        clock: Seconds that pass.
    """
    end = clock() + seconds
    kept = list(nodes)
    parts = 2
    while kept:
        size = -(-len(kept) // parts)
        smaller = None
        for start in range(0, len(kept), size):
            if not tries or clock() > end:
                return kept
            tries -= 1
            rest = kept[:start] + kept[start + size :]
            if passes(rest):
                smaller = rest
                break
        if smaller is not None:
            kept, parts = smaller, max(2, parts - 1)
        elif size == 1:
            break
        else:
            parts = min(len(kept), 2 * parts)
    return kept


__all__ = ["CannotRunError", "find_float32", "outputs_of", "relative_error"]

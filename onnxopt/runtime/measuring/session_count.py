"""How many sessions of each model a benchmark can afford."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.graph.cost import weight_bytes
from onnxopt.runtime.measuring.interleaving import FEWEST_ROUNDS

# ONNX Runtime packs weights once more, so that a session takes up to twice the weights.
_MEMORY_BYTES = 2e9


def affordable_sessions(
    models: Sequence[ir.Model], round_seconds: float, seconds: float, wanted: int
) -> int:
    """Sessions of each model, one at least.

    Args:
        models: All models.
        round_seconds: How long one run of each takes together.
        seconds: How long rounds may go on.
        wanted: The most sessions.
    """
    weights = sum(map(weight_bytes, models))
    by_memory = _MEMORY_BYTES / max(2 * weights, 1)
    by_time = seconds / (FEWEST_ROUNDS * max(round_seconds, 1e-9))
    return max(1, int(min(wanted, by_memory, by_time)))

"""Weights rounded to integers against the data that they are multiplied with.

    minimize |X W - X (s Q)|^2 = tr((W - s Q)' H (W - s Q)),   H = X'X,   Q integer, s given

for all groups at once. Rows of W are rounded one by one, those of large inputs first, and the rows
that are left make up for the error as well as they can: with U upper triangular and U'U =
inverse(H), rounding row i by e = (w_i - s q_i) / U_ii changes a later row j by -U_ij e. This is
GPTQ (Frantar et al., 2022) at 8 bits and for convolutions; learned rounding (AdaRound, Nagel et
al., 2020) minimizes the same sum by gradient descent. `benchmarks/int8_rounding.py` compares them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.inverse_factor import inverse_factor

Float32 = NDArray[np.float32]

# As many rows as a weight is long say little about how its inputs go together, and many times as
# many all of it: damping in between makes errors on other data smallest.
_MOST_DAMPING, _LEAST_DAMPING = 0.3, 0.01
_BATCH = 128  # rows whose errors reach all later rows in one product


def round_with_moments(
    weight: Float32,
    scale: Float32,
    moments: Float32,
    largest: int,
    *,
    damping: float = _LEAST_DAMPING,
) -> NDArray[np.int32]:
    """The integers of a weight.

    Args:
        weight: [groups, K, N].
        scale: Of the integers; broadcasts with the weight, alike for all K.
        moments: H by group, up to a factor, [groups, K, K].
        largest: Integers go from -largest to largest.
        damping: Share of the mean of diag(H) that is added to it; see `damping_for`.
    """
    order, upper = _prepared(moments, damping)
    rows = np.take_along_axis(weight, order[..., None], axis=1).astype(np.float32)
    integers = np.empty(rows.shape, np.int32)
    count = rows.shape[1]
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        batch = rows[:, start:stop]
        errors = np.empty_like(batch)
        for index in range(stop - start):
            row = start + index
            rounded = np.clip(np.rint(batch[:, index, None] / scale), -largest, largest)
            integers[:, row, None] = rounded
            error = batch[:, index, None] - rounded * scale
            error /= upper[:, row, row, None, None]
            errors[:, index, None] = error
            batch[:, index + 1 :] -= upper[:, row, row + 1 : stop, None] * error
        rows[:, stop:] -= upper[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    result = np.empty_like(integers)
    np.put_along_axis(result, order[..., None], integers, axis=1)
    return result


def damping_for(length: int, rows: int) -> float:
    """How much to damp moments of so many rows.

    Args:
        length: K.
        rows: How many rows of X there were.
    """
    return min(_MOST_DAMPING, max(_LEAST_DAMPING, _MOST_DAMPING * length / max(1, rows)))


def _prepared(moments: Float32, damping: float) -> tuple[NDArray[np.intp], Float32]:
    """The order of the rows, and U in that order."""
    diagonal = np.diagonal(moments, axis1=1, axis2=2).astype(np.float64)
    mean = diagonal.mean(axis=1)
    mean = np.where(mean > 0, mean, 1.0)
    damped = moments.astype(np.float64)
    index = np.arange(moments.shape[1])
    damped[:, index, index] += damping * mean[:, None]
    order = np.argsort(-diagonal, axis=1, kind="stable")
    damped = np.take_along_axis(damped, order[:, :, None], axis=1)
    damped = np.take_along_axis(damped, order[:, None, :], axis=2)
    return order, inverse_factor(damped)

"""Which weights of a matrix become zero, and what the others become to make up for them.

    magnitude    |w_in|                     the least of the whole weight
    activation   |w_in| rms(x_i)            the least of every output (Wanda: Sun et al., 2023)
    hessian      w_in^2 / U_ii^2            the least of every 128 inputs, one input after the
                                            other, while later ones make up for what went
                                            (SparseGPT: Frantar and Alistarh, 2023)

with U of `inverse_factor` for the second moments of x. Weights are [groups, K, N], summed over K;
in the pattern 2:4 two of every four neighbours along K go.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.inverse_factor import inverse_factor

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Pattern = Literal["unstructured", "2:4"]

KEPT, OF = 2, 4
_ROUNDING = 1e-6  # of a share times a number
_BATCH = 128  # inputs whose removal reaches all later ones in one product


def least(scores: Floats, pattern: Pattern, sparsity: float, *, by_output: bool = False) -> Mask:
    """What goes: True where a score is among the smallest.

    Args:
        scores: `[groups, K, N]`, at least 0.
        pattern: For "2:4" K is a multiple of 4, and half of the weights go.
        sparsity: Share that goes, rounded down.
        by_output: The same share of every output.
    """
    groups, length, outputs = scores.shape
    gone = np.zeros(scores.shape, bool)
    if pattern == "2:4":
        quads = scores.reshape(groups, -1, OF, outputs)
        order = np.argsort(quads, axis=2, kind="stable")[:, :, : OF - KEPT]
        np.put_along_axis(gone.reshape(quads.shape), order, True, axis=2)
        return gone
    if by_output:
        count = int(sparsity * length + _ROUNDING)
        if count:
            order = np.argpartition(scores, count - 1, axis=1)[:, :count]
            np.put_along_axis(gone, order, True, axis=1)
        return gone
    count = int(sparsity * scores.size + _ROUNDING)
    if count:
        gone.reshape(-1)[np.argpartition(scores, count - 1, axis=None)[:count]] = True
    return gone


def activation_scores(weight: Floats, moments: Floats) -> Floats:
    """|w| times the root mean square of its input.

    Args:
        weight: `[groups, K, N]`.
        moments: Mean outer products of the inputs, `[groups, K, K]`.
    """
    rms = np.sqrt(np.maximum(np.diagonal(moments, axis1=1, axis2=2), 0.0))
    scores: Floats = np.abs(weight) * rms[:, :, None]
    return scores


def solve_sparse(
    weight: Floats,
    moments: Floats,
    pattern: Pattern,
    sparsity: float,
    *,
    damping: float,
    update: bool = True,
) -> Floats:
    """The weight with zeros in it that reproduces its products best.

    Args:
        weight: `[groups, K, N]`; left as it is.
        moments: Mean outer products of the inputs, `[groups, K, K]`.
        pattern: As for `least`.
        sparsity: Likewise, of every batch of inputs.
        damping: Share of the mean of their diagonal that is added to it (`rounding.damping_for`).
        update: Let later inputs make up for what went; otherwise only choose what goes.
    """
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1)
    damped = moments.copy()
    index = np.arange(moments.shape[1])
    damped[:, index, index] += damping * np.where(mean > 0, mean, 1.0)[:, None]
    upper = inverse_factor(damped.astype(np.float64))
    # What multiplies an input that is always zero goes first.
    leverage = np.where(diagonal > 0, np.square(np.diagonal(upper, axis1=1, axis2=2)), np.inf)
    rows = weight.astype(np.float32)
    for start in range(0, rows.shape[1], _BATCH):
        stop = min(start + _BATCH, rows.shape[1])
        batch = rows[:, start:stop]
        gone = np.zeros(batch.shape, bool)
        if pattern == "unstructured":
            scores = np.square(batch) / leverage[:, start:stop, None]
            gone = least(scores, pattern, sparsity)
        errors = np.zeros_like(batch)
        for place in range(stop - start):
            row = start + place
            if pattern != "unstructured" and place % OF == 0:
                quad = slice(place, place + OF)
                scores = np.square(batch[:, quad]) / leverage[:, row : row + OF, None]
                gone[:, quad] = least(scores, pattern, sparsity)
            lost = np.where(gone[:, place], batch[:, place], 0.0)
            batch[:, place] -= lost
            if update:
                errors[:, place] = lost / upper[:, row, row, None]
                later = upper[:, row, row + 1 : stop, None]
                batch[:, place + 1 :] -= later * errors[:, place, None]
        if update:
            rows[:, stop:] -= np.swapaxes(upper[:, start:stop, stop:], 1, 2) @ errors
    return rows.astype(np.float64)


def product_error(weight: Floats, other: Floats, moments: Floats | None) -> float:
    """Mean square of x (w - w') relative to that of x w.

    Args:
        weight: w, `[groups, K, N]`.
        other: w'.
        moments: Mean outer products of x, `[groups, K, K]`; None for inputs that are all alike.
    """

    def energy(matrix: Floats) -> float:
        return float((matrix * (matrix if moments is None else moments @ matrix)).sum())

    whole = energy(weight)
    return max(energy(weight - other), 0.0) / whole if whole > 0 else 0.0

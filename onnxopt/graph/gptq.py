"""GPTQ: rounds the rows of a weight one by one and lets the others make up for the error.

    minimize |X W - X Q|^2 = tr((W - Q)' H (W - Q)),    H = X'X

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers" (2022). With U upper triangular and U'U = inverse(H), rounding row i by
e = (w_i - q_i) / U_ii changes every later row j by -U_ij e, which is the best that they can do.
Rows in the order of falling diag(H) ("act-order") round the important ones while all others can
still move; scales belong to blocks of neighbours then, so they are chosen before. Coordinate
descent from there (`coordinate_descent`) takes another 5 to 10 % off the error.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.block_weights import WORKERS, BlockWeights, empty_weights
from onnxopt.graph.blocks import BlockEncoding, Float32, Grid, choose_grid, integers_of, values_of
from onnxopt.graph.coordinate_descent import descend
from onnxopt.graph.inverse_factor import inverse_factor

_BATCH = 128  # rows whose errors reach all later rows in one product
_COLUMNS = 512  # that one task solves


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What all columns have in common.

    Attributes:
        order: Rows in the order in which they are rounded.
        upper: U, in that order.
        size: Rows that share a scale.
        moments: H, damped, in the order of the weight.
        importance: diag(H), in the order of the weight.
        encoding: The integers.
    """

    order: NDArray[np.intp]
    upper: Float32
    size: int
    moments: Float32
    importance: Float32
    encoding: BlockEncoding

    @property
    def in_order(self) -> bool:
        return bool((np.diff(self.order) == 1).all())


def solve_gptq(
    weight: NDArray[Any],
    axis: int,
    moments: NDArray[np.float64],
    encoding: BlockEncoding,
    *,
    act_order: bool = True,
    damping: float = 0.01,
    sweeps: int = 3,
) -> BlockWeights:
    """Quantizes a weight against the second moments of what it is multiplied with.

    Args:
        weight: A matrix; left as it is.
        axis: The summed axis, of length K.
        moments: X'X, up to a factor, [K, K].
        encoding: The integers; its method chooses the scales.
        act_order: Round the most important rows first.
        damping: Share of the mean of diag(H) that is added to it.
        sweeps: Of coordinate descent afterwards.
    """
    matrix = np.asarray(weight, np.float32)
    matrix = matrix if axis == 0 else matrix.T
    result = empty_weights((matrix.shape[0], matrix.shape[1]), 0, encoding)
    problem = _prepare(moments, encoding, act_order, damping)

    def work(start: int) -> tuple[float, float]:
        part = slice(start, start + _COLUMNS)
        columns = np.ascontiguousarray(matrix[:, part])
        integers, grid = _solve_columns(columns, problem)
        if sweeps:
            descend(columns, integers, grid, problem.moments, encoding, sweeps)
        size = problem.size
        scale, zero = (np.repeat(a, size, 0)[: len(columns)] for a in (grid.scale, grid.zero))
        error = values_of(integers, Grid(scale, zero)) - columns
        result.integers[:, part] = integers
        result.scales[:, part], result.zeros[:, part] = grid.scale, grid.zero
        return float((error * error).sum()), float((columns * columns).sum())

    with ThreadPoolExecutor(WORKERS) as pool:
        for error, energy in pool.map(work, range(0, matrix.shape[1], _COLUMNS)):
            result.error += error
            result.energy += energy
    return result if axis == 0 else transposed(result)


def transposed(weights: BlockWeights) -> BlockWeights:
    """The same for the transposed matrix."""
    return dataclasses.replace(
        weights,
        integers=np.ascontiguousarray(weights.integers.T),
        scales=np.ascontiguousarray(weights.scales.T),
        zeros=np.ascontiguousarray(weights.zeros.T),
        axis=1 - weights.axis,
    )


def _prepare(
    moments: NDArray[np.float64], encoding: BlockEncoding, act_order: bool, damping: float
) -> _Problem:
    matrix = moments.copy()
    diagonal = np.diagonal(moments).copy()
    mean = float(diagonal.mean()) or 1.0
    # An input that is always zero says nothing of its row, which is rounded on its own then.
    matrix[np.diag_indices_from(matrix)] += damping * mean + np.where(diagonal == 0, mean, 0.0)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(diagonal))
    upper = inverse_factor(matrix[np.ix_(order, order)])
    importance = (diagonal / mean + damping).astype(np.float32)
    size = encoding.block_for(len(order))
    return _Problem(order, upper, size, matrix.astype(np.float32), importance, encoding)


def _grids(columns: Float32, problem: _Problem) -> Grid:
    """Scale and zero point of every block of rows: [blocks, columns]."""
    missing = -len(columns) % problem.size
    padded = np.pad(columns, ((0, missing), (0, 0)))
    importance = np.pad(problem.importance[: len(columns)], (0, missing))
    grid = choose_grid(
        padded.reshape(-1, problem.size, columns.shape[1]),
        1,
        problem.encoding,
        importance.reshape(-1, problem.size, 1),
    )
    return Grid(grid.scale[:, 0], grid.zero[:, 0])


def _solve_columns(columns: Float32, problem: _Problem) -> tuple[NDArray[np.uint8], Grid]:
    order, upper, size = problem.order, problem.upper, problem.size
    grid = _grids(columns, problem)
    # In order, a block's scale is chosen when its turn comes, for what its rows have become.
    late = problem.in_order and _BATCH % size == 0
    rows = columns[order]
    integers = np.empty(columns.shape, np.uint8)
    for start in range(0, len(rows), _BATCH):
        stop = min(start + _BATCH, len(rows))
        batch = rows[start:stop]
        errors = np.empty_like(batch)
        for index in range(stop - start):
            place = order[start + index]
            block = place // size
            if late and place % size == 0:
                found = _grids(batch[index : index + size], problem)
                grid.scale[block], grid.zero[block] = found.scale[0], found.zero[0]
            step = Grid(grid.scale[block], grid.zero[block])
            integers[place] = integers_of(batch[index], step, problem.encoding)
            error = batch[index] - values_of(integers[place], step)
            error /= upper[start + index, start + index]
            errors[index] = error
            batch[index + 1 :] -= upper[start + index, start + index + 1 : stop, None] * error
        rows[stop:] -= upper[start:stop, stop:].T @ errors
    return integers, grid

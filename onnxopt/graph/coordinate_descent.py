"""Coordinate descent on quantized weights: every integer, then every scale, at its best.

    loss = tr(E' H E),    E = W - Q,    Q = scale (q - zero),    H = X'X,    R = H E

    integer  q_i   <- round((Q_i + R_i / H_ii) / scale + zero)      the others as they are
    scale    s_b   <- s_b + (D_b' R_b) / (D_b' H_bb D_b)            D_b = q - zero of its block

Each step is the exact minimum along its coordinate, so that the loss never grows. What GPTQ rounded
early it cannot change once it has seen the rest, and it takes scales as given; here both are
revised. Integers one by one are the method of Behdin et al., "QuantEase" (2023).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxopt.graph.blocks import BlockEncoding, Float32, Grid, integers_of, values_of

_BATCH = 128  # rows whose changes reach all others in one product


def descend(
    columns: Float32,
    integers: NDArray[np.uint8],
    grid: Grid,
    moments: Float32,
    encoding: BlockEncoding,
    sweeps: int,
) -> None:
    """Improves integers and scales in place.

    Args:
        columns: The float weight W, [K, N].
        integers: [K, N].
        grid: Scales and zero points, [blocks, N]; only the scales change.
        moments: H, [K, K].
        encoding: The integers.
        sweeps: How many times everything is visited.
    """
    size = encoding.block_for(len(columns))
    steps = _expanded(grid, size, len(columns))
    values = values_of(integers, steps)
    gradient = moments @ (columns - values)
    for _ in range(sweeps):
        _visit_integers(integers, values, gradient, steps, moments, encoding)
        _visit_scales(integers, values, gradient, grid, moments, size)
        steps = _expanded(grid, size, len(columns))


def _expanded(grid: Grid, size: int, length: int) -> Grid:
    """Scales and zero points for every row."""
    return Grid(*(np.repeat(part, size, 0)[:length] for part in (grid.scale, grid.zero)))


def _visit_integers(
    integers: NDArray[np.uint8],
    values: Float32,
    gradient: Float32,
    steps: Grid,
    moments: Float32,
    encoding: BlockEncoding,
) -> None:
    diagonal = np.diagonal(moments)
    for start in range(0, len(values), _BATCH):
        part = slice(start, start + _BATCH)
        old = values[part].copy()
        own = gradient[part].copy()
        near = moments[part, part]
        for index, row in enumerate(range(*part.indices(len(values)))):
            if diagonal[row] <= 0:
                continue  # an input that is always zero: any integer is as good
            step = Grid(steps.scale[row], steps.zero[row])
            integers[row] = integers_of(values[row] + own[index] / diagonal[row], step, encoding)
            new = values_of(integers[row], step)
            own -= near[:, index, None] * (new - values[row])
            values[row] = new
        gradient -= moments[:, part] @ (values[part] - old)


def _visit_scales(
    integers: NDArray[np.uint8],
    values: Float32,
    gradient: Float32,
    grid: Grid,
    moments: Float32,
    size: int,
) -> None:
    for block in range(len(grid.scale)):
        part = slice(block * size, (block + 1) * size)
        steps = integers[part].astype(np.float32) - grid.zero[block]
        curvature = np.einsum("kn,kn->n", steps, moments[part, part] @ steps)
        change = np.zeros_like(curvature)
        slope = np.einsum("kn,kn->n", steps, gradient[part])
        np.divide(slope, curvature, out=change, where=curvature > 0)
        grid.scale[block] += change
        steps *= change
        values[part] += steps
        gradient -= moments[:, part] @ steps

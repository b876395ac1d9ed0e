"""Weights re-fitted by least squares: units that stay speak for those that went.

    y = x w + b,  x' = what is left of x (and has changed)   =>   y ~ x' w' + b'

With A the moments of x', B those of x' with y, and w0 the weight as it was cut out, the weight
w' = w0 + (A + lambda I)^-1 (B - A w0) is best under a ridge that holds it to w0 (the reconstruction
of He et al., "Channel pruning for accelerating very deep neural networks", 2017, in closed form).
No labels are needed, and no activations: moments suffice.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

Array = NDArray[np.float64]
# Shares of the mean variance of the inputs; held-out moments choose among them.
RIDGES = (1e-3, 1e-2, 1e-1)
_ROUNDING = 1e-12


class PairedMoments:
    """Sums over rows of inputs x and wanted outputs y, in float64.

    Args:
        x: The first rows; all are taken relative to their mean. Where it is large against the
            spread, squares in float32 would lose the spread.
        y: The outputs that go with them.
    """

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        self.rows = 0
        self._shift_x, self._shift_y = x.mean(0, dtype=np.float32), y.mean(0, dtype=np.float32)
        inputs, outputs = x.shape[1], y.shape[1]
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        self._x, self._y = np.zeros(inputs), np.zeros(outputs)
        self._yy = 0.0

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Adds rows `[n, inputs]` and `[n, outputs]`."""
        x, y = x - self._shift_x, y - self._shift_y
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._x += x.sum(0, np.float64)
        self._y += y.sum(0, np.float64)
        self._yy += float(np.square(y, dtype=np.float64).sum())
        self.rows += len(x)

    def merge(self, other: PairedMoments) -> None:
        """Adds the sums of another, which takes its rows relative to the same means."""
        self._xx += other._xx
        self._xy += other._xy
        self._x += other._x
        self._y += other._y
        self._yy += other._yy
        self.rows += other.rows

    def settled(self, *, centered: bool) -> Moments:
        """Means over all rows.

        Args:
            centered: About the means, for a fit with a bias; else about zero.
        """
        rows = max(1, self.rows)
        x, y = self._x / rows, self._y / rows
        mean_x, mean_y = x + self._shift_x, y + self._shift_y
        xx = self._xx / rows - np.outer(x, x)
        xy = self._xy / rows - np.outer(x, y)
        yy = self._yy / rows - float(y @ y)
        if not centered:
            xx += np.outer(mean_x, mean_x)
            xy += np.outer(mean_x, mean_y)
            yy += float(mean_y @ mean_y)
        return Moments(xx, xy, yy, mean_x, mean_y)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Means of products of rows.

    Attributes:
        xx: Inputs with inputs, `[inputs, inputs]`.
        xy: Inputs with outputs, `[inputs, outputs]`.
        yy: Mean square of a row of outputs.
        mean_x: Mean inputs.
        mean_y: Mean outputs.
    """

    xx: Array
    xy: Array
    yy: float
    mean_x: Array
    mean_y: Array

    def error(self, weight: Array) -> float:
        """Mean square of y - x w, relative to that of y; the bias takes up the means."""
        crossed = float((weight * self.xy).sum())
        found = self.yy - 2 * crossed + float((weight * (self.xx @ weight)).sum())
        return max(found, 0.0) / self.yy if self.yy > 0 else 0.0


def refit(weight: Array, moments: Moments, ridge: float) -> Array:
    """The weight that makes y of x.

    Args:
        weight: `[inputs, outputs]`, what a ridge without end would leave.
        moments: Of x and y.
        ridge: Added to the diagonal, as a share of its mean.

    Raises:
        InvalidInputError: Shapes do not fit, or a number is not finite.
    """
    inputs = len(weight)
    if moments.xx.shape != (inputs, inputs) or moments.xy.shape != weight.shape:
        raise InvalidInputError(
            f"moments of shapes {moments.xx.shape} and {moments.xy.shape} do not fit a weight of "
            f"shape {weight.shape}"
        )
    if not all(np.isfinite(array).all() for array in (weight, moments.xx, moments.xy)):
        raise InvalidInputError("the weight or its calibration data has NaN or infinity in it")
    scale = float(np.trace(moments.xx)) / inputs
    # Inputs that never vary but by rounding say nothing; the bias alone takes over.
    if scale <= _ROUNDING * max(1.0, float(moments.mean_x @ moments.mean_x) / inputs):
        return weight.copy()
    left = moments.xx + ridge * scale * np.eye(inputs)
    residual = moments.xy - moments.xx @ weight
    if ridge > 0:
        return weight + np.linalg.solve(left, residual)
    return weight + np.linalg.lstsq(left, residual, rcond=None)[0]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The ridge that held-out moments chose.

    Attributes:
        ridge: None if no fit is better than the weight as it was cut out.
        before: Relative error of that weight.
        after: Relative error of the choice.
    """

    ridge: float | None
    before: float
    after: float


def choose_ridge(weight: Array, fitting: Moments, held_out: Moments) -> Choice:
    """Fits on some moments and judges on others that the fits have not seen."""
    before = held_out.error(weight)
    errors = {ridge: held_out.error(refit(weight, fitting, ridge)) for ridge in RIDGES}
    best = min(errors, key=errors.__getitem__)
    if errors[best] < before:
        return Choice(best, before, errors[best])
    return Choice(None, before, before)

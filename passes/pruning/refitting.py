"""Consumers re-fitted by least squares: units that stay speak for those that go.

    y = x w + b,  x = [kept, removed]   =>   y ~ x_kept w' + b'

With C the covariance of x over calibration data, w' = w_kept + C_kk^-1 C_kr w_removed is best, and
b' keeps the mean of y (the reconstruction of He et al., "Channel pruning for accelerating very deep
neural networks", 2017, in closed form). No labels are needed, and no activations: second moments
and means suffice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

Array = NDArray[np.float64]
_ROUNDING = 1e-12


def refit(
    weight: Array, moments: Array, mean: Array, kept: NDArray[np.bool_], ridge: float = 1e-4
) -> tuple[Array, Array]:
    """The weight and the shift of the bias that reproduce a linear map from fewer inputs.

    Args:
        weight: `[inputs, outputs]`.
        moments: Mean of x x^T over calibration data, `[inputs, inputs]`.
        mean: Mean of x, `[inputs]`.
        kept: By input, whether it stays.
        ridge: Added to the diagonal, as a share of the mean variance of the inputs that stay.

    Returns:
        The weight `[kept inputs, outputs]` and what to add to the bias, `[outputs]`.

    Raises:
        InvalidInputError: Shapes do not fit, no input stays, or a number is not finite.
    """
    inputs = len(weight)
    if moments.shape != (inputs, inputs) or mean.shape != (inputs,) or kept.shape != (inputs,):
        raise InvalidInputError(
            f"moments of shape {moments.shape}, means {mean.shape} and choice {kept.shape} "
            f"do not fit a weight with {inputs} inputs"
        )
    if not kept.any():
        raise InvalidInputError("nothing is left to re-fit the weight from: keep an input")
    if not all(np.isfinite(array).all() for array in (weight, moments, mean)):
        raise InvalidInputError("the weight or its calibration data has NaN or infinity in it")
    covariance = moments - np.outer(mean, mean)
    left = covariance[np.ix_(kept, kept)]
    variance = float(np.trace(left)) / len(left)
    fitted = weight[kept].copy()
    # Inputs that never vary but by rounding say nothing about others; the bias alone takes over.
    varies = variance > _ROUNDING * float(np.trace(moments)) / inputs
    if varies and ridge > 0:
        left = left + ridge * variance * np.eye(len(left))
    if varies:
        target = covariance[np.ix_(kept, ~kept)] @ weight[~kept]
        fitted += np.linalg.lstsq(left, target, rcond=None)[0]
    shift: Array = mean @ weight - mean[kept] @ fitted
    return fitted, shift

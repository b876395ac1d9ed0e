"""The factor of an inverse by which rows of a weight make up for each other.

    U'U = H^-1,   U upper triangular

Changing row i of a weight by e costs least if every later row j changes by U_ij e / U_ii, as the
optimal brain surgeon (Hassibi and Stork, 1993) does it for one row after the other; GPTQ rounds
and SparseGPT removes that way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def inverse_factor(moments: NDArray[np.float64]) -> NDArray[np.float32]:
    """U of each matrix.

    Args:
        moments: H, positive definite, `[..., K, K]`.
    """
    inverse: NDArray[Any] = np.linalg.inv(moments)
    symmetric = (inverse + np.swapaxes(inverse, -1, -2)) / 2
    return np.swapaxes(np.linalg.cholesky(symmetric), -1, -2).astype(np.float32)

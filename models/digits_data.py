"""scikit-learn's handwritten digits: 1,797 images of 8x8, split for training and testing."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Digits(NamedTuple):
    """Images as `[n, 1, 8, 8]` between 0 and 1, and their classes."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


@cache
def digits() -> Digits:
    """The data with a stratified quarter held out, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, data.target.astype(np.int64), test_size=0.25, stratify=data.target, random_state=0
    )
    return Digits(train_images, train_labels, test_images, test_labels)

"""Means of the channels of values, as calibration finds them and passes take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError

Array = NDArray[np.float32]


class Means(Mapping[str, Array]):
    """Value name to one mean for each channel. Immutable, so that it can be an option.

    Args:
        means: The means; text, as in `--passes`, is refused.

    Raises:
        InvalidInputError: Text was given.
    """

    def __init__(self, means: Mapping[str, Array] | str = {}) -> None:
        if isinstance(means, str):
            raise InvalidInputError(
                "means come from calibration data: use `onnxopt quantize --calibration DATA`"
            )
        self._means = dict(means)

    def __getitem__(self, name: str) -> Array:
        return self._means[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._means)

    def __len__(self) -> int:
        return len(self._means)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return f"<{len(self)} values>"

    __repr__ = __str__


NO_MEANS = Means()

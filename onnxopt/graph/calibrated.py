"""What calibration finds out about values, as passes take it: plain data, an option like others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.quantization import QuantizationParameters

T = TypeVar("T")
Range = tuple[float, float]
Array = NDArray[np.float32]


class Calibrated(Mapping[str, T], Generic[T]):
    """Value name to what was found. Immutable, so that it can be an option; equal to itself only.

    Args:
        found: What was found; text, as in `--passes`, is refused.

    Raises:
        InvalidInputError: Text was given.
    """

    what: ClassVar[str]

    def __init__(self, found: Mapping[str, T] | str = {}) -> None:
        if isinstance(found, str):
            raise InvalidInputError(
                f"{self.what} come from calibration data: use `onnxopt quantize --calibration DATA`"
            )
        self._found = dict(found)

    def __getitem__(self, name: str) -> T:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return f"<{len(self)} values>"

    __repr__ = __str__


class Ranges(Calibrated[Range]):
    """Value name to its smallest and largest number."""

    what = "ranges"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._found == other._found

    def __hash__(self) -> int:
        return hash(frozenset(self._found.items()))


class Means(Calibrated[Array]):
    """Value name to one mean for each channel."""

    what = "means"


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """Integers that were chosen for a weight, in the layout of the weight.

    Attributes:
        integers: Of the type of the zero point.
        params: Their scale and zero point.
    """

    integers: NDArray[np.generic]
    params: QuantizationParameters

    def fits(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axis: int | None,
        smallest_scale: NDArray[Any] | None,
    ) -> bool:
        """True if these are as wanted: of a weight's shape, a type, an axis, of scales so large."""
        return (
            self.integers.shape == shape
            and self.integers.dtype == dtype
            and self.params.axis == axis
            and (smallest_scale is None or bool((self.params.scale >= smallest_scale).all()))
        )

    @property
    def transposed(self) -> RoundedWeight:
        """The same for the transposed matrix."""
        axis = None if self.params.axis is None else 1 - self.params.axis
        return RoundedWeight(self.integers.T, dataclasses.replace(self.params, axis=axis))


class Roundings(Calibrated[RoundedWeight]):
    """Name of a weight to the integers that stand for it."""

    what = "roundings"


class ChannelScales(Calibrated[Array]):
    """Value name to what each of its channels is divided by."""

    what = "scales of channels"


NO_RANGES = Ranges()
NO_MEANS = Means()
NO_ROUNDINGS = Roundings()
NO_SCALES = ChannelScales()

"""Ranges of values, as calibration finds them and passes take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxopt.core.errors import InvalidInputError

Range = tuple[float, float]


class Ranges(Mapping[str, Range]):
    """Value name to its smallest and largest number. Immutable, so that it can be an option.

    Args:
        ranges: The ranges; text, as in `--passes`, is refused.

    Raises:
        InvalidInputError: Text was given.
    """

    def __init__(self, ranges: Mapping[str, Range] | str = {}) -> None:
        if isinstance(ranges, str):
            raise InvalidInputError(
                "ranges come from calibration data: use `onnxopt quantize --calibration DATA`"
            )
        self._ranges = dict(ranges)

    def __getitem__(self, name: str) -> Range:
        return self._ranges[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(frozenset(self._ranges.items()))

    def __str__(self) -> str:
        return f"<{len(self)} values>"

    __repr__ = __str__


NO_RANGES = Ranges()

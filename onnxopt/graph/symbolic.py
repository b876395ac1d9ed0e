"""Arithmetic on dimensions: an integer, or the text of an expression over symbols.

Text keeps dimensions cheap to hash and to compare; sympy does the algebra and every result is
memoized, because exports repeat the same few sums and products thousands of times. A symbol stands
for an integer >= 0. It may be zero: an empty batch is legal.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable

from onnxopt.graph.expressions import NAME, combine, is_capped, sign_of_difference
from onnxopt.graph.expressions import Dim as Dim

# Texts that exporters write where they mean "unknown": two of them are not equal.
_PLACEHOLDERS = frozenset(
    {"", "?", "-1", "none", "null", "unk", "unknown", "dynamic", "any", "..."}
)
_MONOMIAL = re.compile(rf"(\d+)\*({NAME.pattern})")


def is_named(text: str | None) -> bool:
    """True if the dimension has a text that names one and the same size wherever it occurs."""
    return (
        text is not None
        and text.strip().lower() not in _PLACEHOLDERS
        and not text.strip().lstrip("-").isdigit()
    )


def add(first: Dim, second: Dim) -> Dim | None:
    """`first + second`; None if the expression gets out of hand."""
    if isinstance(first, int) and isinstance(second, int):
        return _within(first + second)
    return combine("+", first, second)


def _within(number: int) -> int | None:
    """The number; None if it is none of 64 bits, as sums of what hostile models declare."""
    return number if -(2**63) <= number < 2**63 else None


def sub(first: Dim, second: Dim) -> Dim | None:
    """`first - second`; may be negative."""
    if isinstance(first, int) and isinstance(second, int):
        return _within(first - second)
    return 0 if first == second else combine("-", first, second)


def mul(first: Dim, second: Dim) -> Dim | None:
    """`first * second`."""
    if isinstance(first, int) and isinstance(second, int):
        return _within(first * second)
    return combine("*", first, second)


def div(first: Dim, second: Dim) -> Dim | None:
    """Integer division that truncates towards zero, as ONNX's Div; None where undefined."""
    if second == 0:
        return None
    if isinstance(first, int) and isinstance(second, int):
        quotient = abs(first) // abs(second)
        return quotient if (first < 0) == (second < 0) else -quotient
    # Floor and truncation agree only on one side of zero.
    if not (is_at_least(first, 0) and is_at_least(second, 0)):
        return None
    return combine("//", first, second)


def exact_div(first: Dim, second: Dim) -> Dim | None:
    """`first / second` if the division provably leaves no remainder, else None."""
    if isinstance(first, int) and isinstance(second, int):
        return first // second if second and first % second == 0 else None
    if second == 0:
        return None
    quotient = _monomial_quotient(first, second)
    return combine("/", first, second) if quotient is None else quotient


def mod(first: Dim, second: Dim) -> Dim | None:
    """Remainder with the sign of the divisor, as ONNX's Mod of integers."""
    if second == 0:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return first % second
    return combine("%", first, second)


def smaller(first: Dim, second: Dim) -> Dim | None:
    """The smaller of both."""
    if is_at_least(second, first):
        return first
    return second if is_at_least(first, second) else combine("min", first, second)


def larger(first: Dim, second: Dim) -> Dim | None:
    """The larger of both."""
    if is_at_least(first, second):
        return first
    return second if is_at_least(second, first) else combine("max", first, second)


def product(dims: Iterable[Dim | None]) -> Dim | None:
    """The product of all dimensions; None if one is unknown."""
    result: Dim | None = 1
    for dim in dims:
        if dim is None or result is None:
            return None
        result = mul(result, dim)
    return result


def is_at_least(first: Dim, second: Dim) -> bool:
    """True if `first >= second` for every size of the symbols."""
    if isinstance(first, int) and isinstance(second, int):
        return first >= second
    return first == second or sign_of_difference(first, second) in (">", ">=", "0")


def equal(first: Dim, second: Dim) -> bool | None:
    """Whether both are equal for every size of the symbols; None if it depends."""
    if isinstance(first, int) and isinstance(second, int):
        return first == second
    if first == second:
        return True
    sign = sign_of_difference(first, second)
    if sign == "0":
        return True
    return False if sign in ("<", ">") else None


def less(first: Dim, second: Dim) -> bool | None:
    """Whether `first < second` for every size of the symbols; None if it depends."""
    if isinstance(first, int) and isinstance(second, int):
        return first < second
    if first == second:
        return False
    sign = sign_of_difference(first, second)
    if sign == "<":
        return True
    return False if sign in (">", ">=", "0") else None


def broadcast(first: Dim, second: Dim) -> Dim | None:
    """The dimension that two aligned dimensions broadcast to; None if it depends on the sizes."""
    if first == second or second == 1:
        return first
    if first == 1 or isinstance(second, int):
        return second
    if isinstance(first, int):
        return first
    if is_capped(second, first):
        return first
    return second if is_capped(first, second) else None


class Symbols:
    """A source of symbols for dimensions that nothing names.

    The same key gets the same symbol, so that what is computed in the same way compares equal.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = frozenset(taken)
        self._count = 0
        self._by_key: dict[Hashable, str] = {}

    def fresh(self) -> str:
        """A symbol that equals no other."""
        while True:
            name = f"unk__{self._count}"
            self._count += 1
            if name not in self._taken:
                return name

    def keyed(self, key: Hashable) -> str:
        """The symbol of `key`."""
        symbol = self._by_key.get(key)
        if symbol is None:
            symbol = self._by_key[key] = self.fresh()
        return symbol


def _monomial_quotient(first: Dim, second: Dim) -> Dim | None:
    """`12*batch / batch` and `12*batch / 4`: all that most models ask, without sympy's imports."""
    match = _MONOMIAL.fullmatch(first) if isinstance(first, str) else None
    if match is None:
        return None
    factor, name = int(match[1]), match[2]
    if second == name:
        return factor
    if not isinstance(second, int) or second < 1 or factor % second:
        return None
    return name if factor == second else f"{factor // second}*{name}"

"""Arithmetic on dimensions: an integer, or the text of an expression over symbols.

Text keeps dimensions cheap to hash and to compare; sympy does the algebra and every result is
memoized, because exports repeat the same few sums and products thousands of times. A symbol stands
for an integer >= 0. It may be zero: an empty batch is legal.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]

Dim = int | str

# Texts that exporters write where they mean "unknown": two of them are not equal.
_PLACEHOLDERS = frozenset(
    {"", "?", "-1", "none", "null", "unk", "unknown", "dynamic", "any", "..."}
)
_NAME = re.compile(r"[^\W\d]\w*(?:[.:/][\w.:/]*)?")
_MONOMIAL = re.compile(rf"(\d+)\*({_NAME.pattern})")
# "batch-size" is one name; a difference is written with spaces.
_HYPHENATED = re.compile(r"\w[-/]\w")
# Longer expressions cost more than they prove.
_LONGEST = 160


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
        return first + second
    return _symbolic("+", first, second)


def sub(first: Dim, second: Dim) -> Dim | None:
    """`first - second`; may be negative."""
    if isinstance(first, int) and isinstance(second, int):
        return first - second
    return 0 if first == second else _symbolic("-", first, second)


def mul(first: Dim, second: Dim) -> Dim | None:
    """`first * second`."""
    if isinstance(first, int) and isinstance(second, int):
        return first * second
    return _symbolic("*", first, second)


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
    return _symbolic("//", first, second)


def exact_div(first: Dim, second: Dim) -> Dim | None:
    """`first / second` if the division provably leaves no remainder, else None."""
    if isinstance(first, int) and isinstance(second, int):
        return first // second if second and first % second == 0 else None
    if second == 0:
        return None
    quotient = _monomial_quotient(first, second)
    return _symbolic("/", first, second) if quotient is None else quotient


def mod(first: Dim, second: Dim) -> Dim | None:
    """Remainder with the sign of the divisor, as ONNX's Mod of integers."""
    if second == 0:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return first % second
    return _symbolic("%", first, second)


def smaller(first: Dim, second: Dim) -> Dim | None:
    """The smaller of both."""
    if is_at_least(second, first):
        return first
    return second if is_at_least(first, second) else _symbolic("min", first, second)


def larger(first: Dim, second: Dim) -> Dim | None:
    """The larger of both."""
    if is_at_least(first, second):
        return first
    return second if is_at_least(second, first) else _symbolic("max", first, second)


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
    return first == second or _sign_of_difference(first, second) in (">", ">=", "0")


def equal(first: Dim, second: Dim) -> bool | None:
    """Whether both are equal for every size of the symbols; None if it depends."""
    if isinstance(first, int) and isinstance(second, int):
        return first == second
    if first == second:
        return True
    sign = _sign_of_difference(first, second)
    if sign == "0":
        return True
    return False if sign in ("<", ">") else None


def less(first: Dim, second: Dim) -> bool | None:
    """Whether `first < second` for every size of the symbols; None if it depends."""
    if isinstance(first, int) and isinstance(second, int):
        return first < second
    if first == second:
        return False
    sign = _sign_of_difference(first, second)
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
    if _is_capped(second, first):
        return first
    return second if _is_capped(first, second) else None


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


@lru_cache(maxsize=65536)
def _symbolic(operator: str, first: Dim, second: Dim) -> Dim | None:
    a, b = _expression(first), _expression(second)
    result: Any
    match operator:
        case "+":
            result = a + b
        case "-":
            result = a - b
        case "*":
            result = a * b
        case "//":
            result = sympy.floor(a / b)
        case "/":
            result = sympy.cancel(a / b)
            if not _is_polynomial(result):
                return None
        case "%":
            result = sympy.Mod(a, b)
        case "min":
            result = sympy.Min(a, b)
        case _:
            result = sympy.Max(a, b)
    return _as_dim(result)


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


def _is_polynomial(expression: Any) -> bool:
    numerator, denominator = sympy.fraction(sympy.together(expression))
    return bool(denominator == 1 and numerator.is_integer)


def _as_dim(expression: Any) -> Dim | None:
    expression = sympy.expand(expression)
    if expression.is_Integer:
        return int(expression)
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    text = str(expression)
    if len(text) > _LONGEST:
        return None
    _EXPRESSIONS.setdefault(text, expression)
    return text


@lru_cache(maxsize=65536)
def _sign_of_difference(first: Dim, second: Dim) -> str:
    if isinstance(second, int) and isinstance(first, str) and _NAME.fullmatch(first):
        # By far the most frequent question; sympy's first addition imports 35 ms of tensor algebra.
        return "" if second > 0 else ">=" if second == 0 else ">"
    difference = sympy.expand(_expression(first) - _expression(second))
    if difference == 0:
        return "0"
    sign = _polynomial_sign(difference)
    if sign is not None:
        return sign
    if difference.is_positive:
        return ">"
    if difference.is_negative:
        return "<"
    return ">=" if difference.is_nonnegative else ""


def _polynomial_sign(expression: Any) -> str | None:
    """The sign of a polynomial whose symbols are sizes: integers from 0 up; None if it is none.

    sympy's own deduction imports a part of the library for `batch - 1` and takes 30 ms.
    """
    constant, coefficients = 0, []
    for term in sympy.Add.make_args(expression):
        factor, monomial = term.as_coeff_Mul()
        if not factor.is_Integer or not all(
            base.is_Symbol and base.is_nonnegative and power.is_Integer and power > 0
            for base, power in (part.as_base_exp() for part in sympy.Mul.make_args(monomial))
            if base != 1
        ):
            return None
        if monomial == 1:
            constant = int(factor)
        else:
            coefficients.append(int(factor))
    # At its symbols' zero it is the constant, and from there it only goes up, or only down.
    if constant >= 0 and all(factor > 0 for factor in coefficients):
        return ">" if constant else ">="
    if constant < 0 and all(factor < 0 for factor in coefficients):
        return "<"
    return ""


@lru_cache(maxsize=4096)
def _is_capped(dim: str, size: str) -> bool:
    """True if `dim` is `min(size, n)` with `n >= 1`.

    Where such a dimension broadcasts with `size` at all, both are equal or one of them is 1, and
    the result is `size`. (Position embeddings sliced to the length of the sequence.)
    """
    if not dim.startswith("Min("):
        return False
    expression, whole = _expression(dim), _expression(size)
    others = [argument for argument in expression.args if argument != whole]
    return len(others) < len(expression.args) and all(
        (argument - 1).is_nonnegative for argument in others
    )


# What the text of a result means: parsing it again would cost more and lose assumptions.
_EXPRESSIONS: dict[str, Any] = {}


def _expression(dim: Dim) -> Any:
    if isinstance(dim, int):
        return sympy.Integer(dim)
    expression = _EXPRESSIONS.get(dim)
    if expression is None:
        expression = _EXPRESSIONS[dim] = _parse(dim)
    return expression


def _parse(text: str) -> Any:
    if _NAME.fullmatch(text) or _HYPHENATED.search(text):
        return _symbol(text)
    try:
        parsed: Any = ir.SymbolicDim(text)._expr
    except (ValueError, TypeError, ArithmeticError):
        return _symbol(text)  # a name with unusual letters
    renamed = {symbol: _symbol(str(symbol)) for symbol in parsed.free_symbols}
    return parsed.xreplace(renamed)


def _symbol(name: str) -> Any:
    # onnx_ir's own symbols are positive; a size can be zero.
    return sympy.Symbol(name, integer=True, nonnegative=True)

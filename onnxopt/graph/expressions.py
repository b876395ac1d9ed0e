"""The algebra behind `symbolic`: dimensions as text, expressions of sympy behind them.

A symbol stands for an integer >= 0. Results are memoized, because exports repeat the same few sums
and products thousands of times.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

import onnx_ir as ir

from onnxopt.core.deferring import Deferred

Dim = int | str

sympy: Any = Deferred("sympy")

# A symbol's name as exporters write it.
NAME = re.compile(r"[^\W\d]\w*(?:[.:/][\w.:/]*)?")
# "batch-size" is one name; a difference is written with spaces.
_HYPHENATED = re.compile(r"\w[-/]\w")
# Longer expressions cost more than they prove.
_LONGEST = 160
# Models may come from anybody: what would take long to read or to expand stays a name.
_POWER = re.compile(r"[\w)]\*\*\d(?![\d*.])")
_MOST_POWERS = 3
_MOST_OPERANDS = 8
_MOST_TERMS = 256


@lru_cache(maxsize=65536)
def combine(operator: str, first: Dim, second: Dim) -> Dim | None:
    """An operation on two dimensions, in algebra; None if the result gets out of hand.

    Args:
        operator: One of + - * // / % min max; `/` has to leave no remainder.
        first: The left operand.
        second: The right operand.
    """
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


def _is_polynomial(expression: Any) -> bool:
    numerator, denominator = sympy.fraction(sympy.together(expression))
    return bool(denominator == 1 and numerator.is_integer)


def _as_dim(expression: Any) -> Dim | None:
    expression = sympy.expand(expression)
    if expression.is_Integer:
        return int(expression) if abs(expression) < 2**63 else None
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    text = str(expression)
    if len(text) > _LONGEST:
        return None
    _EXPRESSIONS.setdefault(text, expression)
    return text


@lru_cache(maxsize=65536)
def sign_of_difference(first: Dim, second: Dim) -> str:
    """How `first` compares with `second`: one of `< > >= 0`, or empty if it depends."""
    if isinstance(second, int) and isinstance(first, str) and NAME.fullmatch(first):
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
def is_capped(dim: str, size: str) -> bool:
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
    if NAME.fullmatch(text) or _HYPHENATED.search(text) or not _is_short(text):
        return _symbol(text)
    try:
        parsed: Any = ir.SymbolicDim(text)._expr
    except (ValueError, TypeError, ArithmeticError):
        return _symbol(text)  # a name with unusual letters
    if _terms(parsed) > _MOST_TERMS:
        return _symbol(text)
    renamed = {symbol: _symbol(str(symbol)) for symbol in parsed.free_symbols}
    return parsed.xreplace(renamed)


def _is_short(text: str) -> bool:
    """True if reading a text takes no time: sympy computes powers and compares operands at once."""
    compact = "".join(text.split())
    powers = compact.count("**")
    return (
        len(compact) <= _LONGEST
        and powers <= _MOST_POWERS
        and powers == len(_POWER.findall(compact))
        and compact.count(",") < _MOST_OPERANDS
    )


def _terms(expression: Any) -> int:
    """How many terms an expression has at most once it is expanded."""
    if expression.is_Add:
        return sum(map(_terms, expression.args))
    if expression.is_Mul:
        return math.prod(map(_terms, expression.args))
    if expression.is_Pow:
        base, power = expression.as_base_exp()
        return _terms(base) ** abs(int(power)) if power.is_Integer else 1
    return max(map(_terms, expression.args), default=1)


def _symbol(name: str) -> Any:
    # onnx_ir's own symbols are positive; a size can be zero.
    return sympy.Symbol(name, integer=True, nonnegative=True)

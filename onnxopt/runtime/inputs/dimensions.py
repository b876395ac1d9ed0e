"""Symbolic dimensions as exporters write them: names, sums of names, and placeholders."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

_PLACEHOLDER = re.compile(
    r"\s*(\?|-?\d*|none|null|unk|unknown|dynamic|any|\.\.\.)\s*", re.IGNORECASE
)
# Names hold dots, and slashes and hyphens before a letter; elsewhere these are operators.
_NAME = re.compile(r"[A-Za-z_](?:[\w.:]|[-/](?=[A-Za-z]))*")
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"max": max, "min": min, "floor": lambda x: x}


def is_placeholder(text: str | None) -> bool:
    """True if the text names no size: nothing, "?", "-1", "None" and the like."""
    return text is None or _PLACEHOLDER.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def free_symbols(text: str) -> tuple[str, ...]:
    """The symbols that the size depends on; the text itself if it is one name."""
    parsed = _parse(text)
    return (text,) if parsed is None else parsed[1]


def evaluate(text: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension; None if a symbol has no size."""
    if text in sizes:
        return sizes[text]
    parsed = _parse(text)
    if parsed is None or any(symbol not in sizes for symbol in parsed[1]):
        return None
    return _value(parsed[0], parsed[1], sizes)


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[ast.expr, tuple[str, ...]] | None:
    """Syntax tree with symbols numbered (s0, s1, ...); None if the text is a name."""
    if _NAME.fullmatch(text):
        return None
    symbols: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        name = match.group()
        if name.lower() in _FUNCTIONS and text[match.end() :].startswith("("):
            return name.lower()
        if name not in symbols:
            symbols.append(name)
        return f"s{symbols.index(name)}"

    try:
        tree = ast.parse(_NAME.sub(numbered, text), mode="eval").body
    except SyntaxError:
        return None
    return (tree, tuple(symbols)) if symbols else None


def _value(tree: ast.expr, symbols: tuple[str, ...], sizes: Mapping[str, int]) -> int | None:
    parts: list[Any]
    match tree:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[symbols[int(name[1:])]]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _value(operand, symbols, sizes)
            return None if inner is None else -inner
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol) in _OPERATORS:
            parts = [_value(left, symbols, sizes), _value(right, symbols, sizes)]
            divides = isinstance(symbol, (ast.Div, ast.FloorDiv, ast.Mod))
            if None in parts or (divides and parts[1] == 0):
                return None
            return _OPERATORS[type(symbol)](*parts)
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in _FUNCTIONS:
            parts = [_value(argument, symbols, sizes) for argument in arguments]
            return None if None in parts else _FUNCTIONS[name](*parts)
    return None

"""Passes from text: `fuse-conv-batch-norm,fold-constants{max-growth=4096}`.

The fields of a pass's dataclass are the only schema of its options.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Sequence
from typing import Any

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Pass

_ENTRY = re.compile(r"\s*([a-zA-Z0-9_-]+)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")


def parse_passes(text: str, passes: Sequence[type[Pass]]) -> list[Pass]:
    """Builds passes from text.

    Args:
        text: Names separated by commas, each with options in braces: `name{option=value,...}`.
        passes: The passes to choose from.

    Raises:
        InvalidInputError: An unknown name or option, a value of the wrong type, or bad syntax.
    """
    built: list[Pass] = []
    position = 0
    while position < len(text):
        match = _ENTRY.match(text, position)
        if match is None:
            raise InvalidInputError(
                f"--passes: cannot read {text[position:]!r}; write name{{option=value}},name,..."
            )
        cls = find_pass(match.group(1), passes)
        built.append(cls(**_parse_options(cls, match.group(2) or "")))
        position = match.end()
    if not built:
        raise InvalidInputError("--passes: no pass named; `onnxopt passes` lists them")
    return built


def find_pass(name: str, passes: Sequence[type[Pass]]) -> type[Pass]:
    """The pass of that name.

    Raises:
        InvalidInputError: There is none; the message offers the closest names.
    """
    by_name = {pass_.name: pass_ for pass_ in passes}
    if name in by_name:
        return by_name[name]
    close = difflib.get_close_matches(name, by_name, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`onnxopt passes` lists them"
    raise InvalidInputError(f"no pass is named {name!r}; {hint}")


def option_types(cls: type[Pass]) -> dict[str, Any]:
    """Option name in kebab-case to its type, in the order of the fields."""
    hints = typing.get_type_hints(cls)
    return {field.name.replace("_", "-"): hints[field.name] for field in dataclasses.fields(cls)}


def _parse_options(cls: type[Pass], text: str) -> dict[str, Any]:
    types = option_types(cls)
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in types:
            known = ", ".join(types) or "none"
            raise InvalidInputError(f"{cls.name}: no option {key!r}; its options are: {known}")
        options[key.replace("-", "_")] = _convert(cls.name, key, value, types[key])
    return options


def _convert(pass_name: str, key: str, value: str, wanted: Any) -> Any:
    """`value` as the field's type: bool, int, float, str, Literal, or a tuple joined by +."""
    origin = typing.get_origin(wanted)
    if origin is tuple:
        item = typing.get_args(wanted)[0]
        return tuple(_convert(pass_name, key, part, item) for part in value.split("+") if part)
    if origin is typing.Literal:
        choices = typing.get_args(wanted)
        if value in choices:
            return value
        raise InvalidInputError(
            f"{pass_name}: {key} is one of {', '.join(map(str, choices))}, not {value!r}"
        )
    if wanted is bool:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise InvalidInputError(f"{pass_name}: {key} is true or false, not {value!r}")
    try:
        return wanted(value)
    except ValueError as error:
        raise InvalidInputError(
            f"{pass_name}: {key} takes {wanted.__name__}, not {value!r}"
        ) from error

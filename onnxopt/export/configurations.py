"""What a Hugging Face config.json must not say: checked before transformers builds on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxopt.core.errors import InvalidInputError

_LARGEST_FILE = 16 << 20  # bytes
# transformers makes the layers of a model one by one, as many as it is told.
_MOST_LAYERS = 10_000
_LAYERS = ("layers", "layer", "depth", "depths", "blocks")


def check_configuration(source: str, folder: Path) -> None:
    """Refuses a configuration that is damaged or would take all memory.

    Raises:
        InvalidInputError: It is; the message names the entry.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidInputError(f"{source}: its config.json is too large to be one")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{source}: its config.json cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{source}: its config.json is no object")
    architectures = content.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    ):
        raise InvalidInputError(f"{source}: architectures in its config.json is no list of names")
    for name, number in _numbers(content):
        if name.lower().rpartition("_")[2] in _LAYERS and number > _MOST_LAYERS:
            raise InvalidInputError(f"{source}: {name} in its config.json is {number}")


def _numbers(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Integers by the name of their entry, of nested configurations as well."""
    open_entries: list[tuple[str, Any]] = list(content.items())
    while open_entries:
        name, value = open_entries.pop()
        if isinstance(value, dict):
            open_entries += value.items()
        elif isinstance(value, list):
            open_entries += [(name, one) for one in value]
        elif isinstance(value, int):
            yield name, value

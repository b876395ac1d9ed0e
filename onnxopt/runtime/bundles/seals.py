"""A short hash for each entry of a record, so that a changed entry is known by its name.

They find accidents and careless edits. Whoever wants to deceive can compute them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

_DIGITS = 16


def make_seals(record: dict[str, Any]) -> dict[str, str]:
    """The path of each entry, as "session.threads", to a hash of its value."""
    return {path: _hash(path, value) for path, value in _entries(record, "")}


def broken_seals(record: dict[str, Any], seals: dict[str, Any]) -> list[str]:
    """Paths of the entries that were changed, added or removed."""
    found = make_seals(record)
    return sorted(
        path for path in found.keys() | seals.keys() if found.get(path) != seals.get(path)
    )


def _entries(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _entries(inner, f"{path}.{name}" if path else str(name))
    else:
        # A list is one entry: what is inside has no name.
        yield path, value


def _hash(path: str, value: Any) -> str:
    text = json.dumps([path, value], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]

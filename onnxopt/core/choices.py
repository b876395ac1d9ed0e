"""Options that a function takes by name and hands to a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from onnxopt.core.errors import InvalidInputError


def check_choices(kind: type, choices: Iterable[str], internal: Iterable[str]) -> None:
    """Refuses names that are no fields of a dataclass.

    Args:
        kind: The dataclass.
        choices: What was given.
        internal: Fields that are filled in otherwise.

    Raises:
        InvalidInputError: There is no such option.
    """
    known = {field.name for field in dataclasses.fields(kind)} - {*internal}
    unknown = next((name for name in choices if name not in known), None)
    if unknown is not None:
        raise InvalidInputError(f"no option {unknown!r}; there are {', '.join(sorted(known))}")

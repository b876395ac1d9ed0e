"""The goal of a pruning as one text: `flops=0.5`, `latency=0.7,max-error=0.3`.

The first part says what is to be kept (of flops, latency or size) or to go (sparsity); further ones
are `max-error`, `scope`, `importance`, and `kind` with kinds joined by +.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.core.errors import InvalidInputError

_NUMBERS = {
    "flops": "target_flops",
    "latency": "target_latency",
    "max-error": "max_error",
    "size": "target_size",
    "sparsity": "sparsity",
}
_TEXTS = ("importance", "scope")
# Arguments of `optimize` itself, which it passes on.
_OF_OPTIMIZE = ("calibration", "external_data", "model", "observers", "output", "target")
_FORM = "write flops=0.5, size=0.5, latency=0.7 or sparsity=0.3, and for example max-error=0.2"


def parse_goal(goal: str | Mapping[str, Any]) -> dict[str, Any]:
    """Options of `prune`.

    Args:
        goal: Text, or the options themselves.

    Raises:
        InvalidInputError: The text is not of that form, or an option is one of `optimize`.
    """
    if isinstance(goal, Mapping):
        for name in _OF_OPTIMIZE:
            if name in goal:
                raise InvalidInputError(
                    f"prune: {name} is no option of the goal: give it to optimize itself"
                )
        return dict(goal)
    if not isinstance(goal, str):
        raise InvalidInputError(f"prune {goal!r}: {_FORM}")
    options: dict[str, Any] = {}
    for part in goal.split(","):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise InvalidInputError(f"prune {goal[:80]!r}: {_FORM}")
        if name in _NUMBERS:
            key = _NUMBERS[name]
            try:
                found: Any = float(value)
            except ValueError as error:
                raise InvalidInputError(
                    f"prune: {name} takes a number, not {value[:40]!r}"
                ) from error
        elif name in _TEXTS:
            key, found = name, value
        elif name == "kind":
            key, found = "kinds", tuple(value.split("+"))
        else:
            raise InvalidInputError(f"prune: no option {name[:40]!r}; {_FORM}")
        if key in options:
            raise InvalidInputError(f"prune: {name} is given twice")
        options[key] = found
    return options

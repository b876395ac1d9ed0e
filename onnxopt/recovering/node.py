"""What an operator in PyTorch is given: its node and its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Inputs = Sequence[Tensor | None]
Operator = Callable[["Node", Inputs], Sequence[Tensor]]


class UnsupportedFormError(Exception):
    """An operator is known, but not in this form."""


@dataclasses.dataclass(frozen=True)
class Node:
    """What an operator is told.

    Attributes:
        op_type: Its type.
        attributes: Values by name.
        opset: Version of its domain.
        outputs: Number of outputs.
    """

    op_type: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute or its default."""
        return self.attributes.get(name, default)

    def ints(self, inputs: Inputs, name: str, place: int) -> list[int] | None:
        """Numbers that older opsets have as an attribute, newer ones as an input."""
        if name in self.attributes:
            return list(self.attributes[name])
        value = inputs[place] if place < len(inputs) else None
        return None if value is None else [int(item) for item in value.reshape(-1).tolist()]


def need(inputs: Inputs, place: int) -> Tensor:
    """An input that has to be there."""
    value = inputs[place]
    assert value is not None
    return value


def optional(inputs: Inputs, place: int) -> Tensor | None:
    """An input that may be missing."""
    return inputs[place] if place < len(inputs) else None

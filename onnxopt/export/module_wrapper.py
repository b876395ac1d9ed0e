"""Gives any module flat outputs. This module needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from onnxopt.export.parts import Tensor


class Named(nn.Module):
    """A module that takes its inputs by position and returns a tuple of tensors.

    Args:
        module: The module; it returns a tensor, or a sequence or dict of them, nested as it likes.
        names: Keywords of its `forward` for the inputs; empty to pass them by position.
    """

    def __init__(self, module: Any, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Runs the module."""
        return tuple(_flat(self._call(tensors), "").values())

    def names_of_outputs(self, *tensors: Tensor) -> tuple[str, ...]:
        """Names of the outputs: the keys of dicts, else "output" and its number."""
        found = _flat(self._call(tensors), "")
        if len(found) == 1:
            return tuple(name.removesuffix("_0") if name else "output" for name in found)
        return tuple(f"output{name}" if name[:1] == "_" else name for name in found)

    def _call(self, tensors: Sequence[Tensor]) -> Any:
        if self.names:
            return self.module(**dict(zip(self.names, tensors, strict=True)))
        return self.module(*tensors)


def _flat(result: Any, name: str) -> dict[str, Tensor]:
    if isinstance(result, Mapping):
        pairs = [(f"{name}_{key}".lstrip("_"), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        pairs = [(f"{name}_{index}", value) for index, value in enumerate(result)]
    elif result is None:
        return {}
    elif hasattr(result, "dtype"):
        return {name: result}
    else:
        raise TypeError(f"it returns a {type(result).__name__}; outputs are tensors")
    found: dict[str, Tensor] = {}
    for key, value in pairs:
        found |= _flat(value, key)
    return found

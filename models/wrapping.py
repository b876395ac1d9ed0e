"""Modules with plain tensors as arguments and results, as the exporters want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def returning(model: nn.Module, field: str, arguments: tuple[str, ...]) -> nn.Module:
    """Wraps a Hugging Face model so that it returns one field of its output.

    Args:
        model: Takes `arguments` as keywords.
        field: The name of a tensor in the model's output.
        arguments: The keywords that the wrapper's positional arguments stand for.
    """
    from torch import nn

    class Returning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> Any:
            return getattr(self.model(**dict(zip(arguments, tensors, strict=True))), field)

    return Returning().eval()

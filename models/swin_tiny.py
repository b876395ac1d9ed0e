"""Swin-T: shifted windows, so much reshaping, rolling and masking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagenet import classifiers

if TYPE_CHECKING:
    from torch import nn


def create() -> nn.Module:
    """The untrained network."""
    from transformers import SwinConfig, SwinForImageClassification

    model: nn.Module = SwinForImageClassification(SwinConfig(num_labels=1000))
    return model


SPECS = classifiers("swin_tiny", "transformers Swin", 1e-5, create)

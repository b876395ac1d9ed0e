"""ConvNeXt-T: depthwise 7x7 convolutions with layer normalization and GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagenet import classifiers

if TYPE_CHECKING:
    from torch import nn


def create() -> nn.Module:
    """The untrained network."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    model: nn.Module = ConvNextForImageClassification(ConvNextConfig(num_labels=1000))
    return model


SPECS = classifiers("convnext_tiny", "transformers ConvNeXt", 1e-5, create)

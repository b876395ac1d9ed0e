"""ResNet-50: bottleneck blocks of dense convolutions with batch normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagenet import classifiers

if TYPE_CHECKING:
    from torch import nn


def create() -> nn.Module:
    """The untrained network."""
    from transformers import ResNetConfig, ResNetForImageClassification

    model: nn.Module = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    return model


SPECS = classifiers("resnet50", "transformers ResNet", 1e-4, create)

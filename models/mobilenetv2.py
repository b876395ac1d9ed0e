"""MobileNetV2: inverted residual blocks with depthwise convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagenet import classifiers

if TYPE_CHECKING:
    from torch import nn


def create() -> nn.Module:
    """The untrained network."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    model: nn.Module = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))
    return model


SPECS = classifiers("mobilenetv2", "transformers MobileNetV2", 1e-4, create)

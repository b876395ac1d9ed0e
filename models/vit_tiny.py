"""ViT-Tiny: 12 transformer layers of width 192 over 197 patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagenet import classifiers

if TYPE_CHECKING:
    from torch import nn


def create() -> nn.Module:
    """The untrained network."""
    from transformers import ViTConfig, ViTForImageClassification

    model: nn.Module = ViTForImageClassification(
        ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=1000)
    )
    return model


SPECS = classifiers("vit_tiny", "transformers ViT", 1e-5, create)

"""All reference models."""

from __future__ import annotations

import big_external
import convnext_tiny
import digits_cnn
import digits_transformer
import fpn
import gpt2
import llama168m
import minilm
import mobilenetv2
import resnet50
import swin_like
import swin_tiny
import vit_tiny
from spec import ModelSpec

MODELS: tuple[ModelSpec, ...] = (
    digits_cnn.SPEC,
    digits_transformer.SPEC,
    *mobilenetv2.SPECS,
    *resnet50.SPECS,
    *minilm.SPECS,
    *vit_tiny.SPECS,
    *swin_tiny.SPECS,
    *convnext_tiny.SPECS,
    *gpt2.SPECS,
    *fpn.SPECS,
    *llama168m.SPECS,
    *swin_like.SPECS,
    *big_external.SPECS,
)


def model(name: str) -> ModelSpec:
    """The reference model of that name."""
    for spec in MODELS:
        if spec.name == name:
            return spec
    raise KeyError(f"No reference model {name!r}; there are {[spec.name for spec in MODELS]}.")

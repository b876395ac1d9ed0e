"""What the image classifiers share: one image input, 1000 logits, an export of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporting import EXPORTERS, Exporter
from spec import Input, ModelSpec

if TYPE_CHECKING:
    from torch import nn

INPUTS: Mapping[str, Input] = {"pixel_values": Input("float32", ("batch", 3, 224, 224))}


def classifiers(
    name: str,
    source: str,
    tolerance: float,
    create: Callable[[], nn.Module],
    exporters: tuple[Exporter, ...] = EXPORTERS,
) -> tuple[ModelSpec, ...]:
    """One specification for each exporter of an image classifier.

    Args:
        name: The name before the exporter's suffix.
        source: Where the architecture comes from.
        tolerance: As in `ModelSpec`.
        create: Makes the Hugging Face model; its weights are redrawn afterwards.
        exporters: The exporters that can handle the model.
    """
    return tuple(
        ModelSpec(
            name=f"{name}_{exporter.suffix}",
            source=f"{source}, seeded random weights",
            opset=exporter.opset,
            inputs=INPUTS,
            tolerance=tolerance,
            build=partial(_build, create, exporter),
        )
        for exporter in exporters
    )


def _build(create: Callable[[], nn.Module], exporter: Exporter, path: Path) -> None:
    from weights import randomize, settle_batch_norms
    from wrapping import returning

    module = returning(create(), "logits", tuple(INPUTS))
    randomize(module)
    settle_batch_norms(module, INPUTS)
    exporter.export(module, INPUTS, {"logits": ("batch", 1000)}, path)

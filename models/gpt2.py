"""GPT-2: four of its decoder layers at full width, embeddings tied to the output projection."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporting import EXPORTERS, Exporter
from spec import Input, ModelSpec

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 50257
INPUTS = {
    "input_ids": Input("int64", ("batch", "sequence"), "tokens", VOCABULARY),
}


def create() -> nn.Module:
    """The untrained decoder, without a cache."""
    from torch import Tensor, nn
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=4, attn_implementation="eager", use_cache=False))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
            return logits

    return Decoder().eval()


def _build(exporter: Exporter, path: Path) -> None:
    from weights import randomize

    module = create()
    randomize(module)
    exporter.export(module, INPUTS, {"logits": ("batch", "sequence", VOCABULARY)}, path)


SPECS = tuple(
    ModelSpec(
        name=f"gpt2_{exporter.suffix}",
        source="transformers GPT-2, 4 layers, seeded random weights",
        opset=exporter.opset,
        inputs=INPUTS,
        tolerance=1e-5,
        build=partial(_build, exporter),
    )
    for exporter in EXPORTERS
)

"""A small vision transformer for handwritten digits, trained here; accuracy 98.9 %.

It sees an 8x8 image as 16 patches of 2x2. It comes from the TorchScript exporter without constant
folding: attention, layer normalization and GELU are written out, with the shape computations
that a dynamic batch brings.

`python models/digits_transformer.py` trains it again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from digits_training import INPUTS, train_and_export
from exporting import TORCHSCRIPT
from spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTH = 48
HEADS = 4
LAYERS = 3
UNFOLDED = replace(TORCHSCRIPT, options={"dynamo": False, "do_constant_folding": False})


def create() -> nn.Module:
    """The untrained network."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(WIDTH, WIDTH)
            self.key = nn.Linear(WIDTH, WIDTH)
            self.value = nn.Linear(WIDTH, WIDTH)
            self.output = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            def heads(values: Tensor) -> Tensor:
                return values.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)

            query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
            scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
            mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).contiguous()
            output: Tensor = self.output(mixed.view(x.shape))
            return output

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm = nn.LayerNorm(WIDTH)
            self.attention = Attention()
            self.mlp_norm = nn.LayerNorm(WIDTH)
            self.mlp = nn.Sequential(
                nn.Linear(WIDTH, 2 * WIDTH),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(2 * WIDTH, WIDTH),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(self.attention_norm(x))
            output: Tensor = x + self.mlp(self.mlp_norm(x))
            return output

    class DigitsTransformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, WIDTH, kernel_size=2, stride=2)
            self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.positions = nn.Parameter(0.02 * torch.randn(1, 17, WIDTH))
            self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
            self.norm = nn.LayerNorm(WIDTH)
            self.classifier = nn.Linear(WIDTH, 10)

        def forward(self, image: Tensor) -> Tensor:
            patches = self.patches(image).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(image.shape[0], -1, -1), patches], dim=1)
            features = self.norm(self.layers(tokens + self.positions))
            logits: Tensor = self.classifier(features[:, 0])
            return logits

    return DigitsTransformer()


SPEC = ModelSpec(
    name="digits_transformer",
    source="trained by models/digits_transformer.py on scikit-learn's digits",
    opset=UNFOLDED.opset,
    inputs=INPUTS,
    tolerance=1e-5,
    build=partial(train_and_export, create, 120, UNFOLDED),
    committed=True,
)

if __name__ == "__main__":
    SPEC.build(Path(__file__).with_suffix(".onnx"))

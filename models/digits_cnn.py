"""A small convolutional classifier of handwritten digits, trained here; accuracy 99.8 %.

It has what folding and fusing need: batch normalization after dense, pointwise and depthwise
convolutions, a residual connection, pooling and dropout. It comes from the torch.export based
exporter without its optimizer, so all of that is still in the graph.

`python models/digits_cnn.py` trains it again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from digits_training import INPUTS, train_and_export
from exporting import DYNAMO
from spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def create() -> nn.Module:
    """The untrained network."""
    from torch import nn

    def block(channels: int, out: int, kernel: int, groups: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups)
        return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())

    class Residual(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.first = block(channels, channels, 3)
            self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.normalization = nn.BatchNorm2d(channels)
            self.activation = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            branch = self.normalization(self.second(self.first(x)))
            result: Tensor = self.activation(x + branch)
            return result

    class DigitsCnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                block(1, 32, 3),
                Residual(32),
                nn.MaxPool2d(2),
                block(32, 64, 1),
                block(64, 64, 3, groups=64),
                block(64, 64, 1),
                nn.AdaptiveAvgPool2d(1),
            )
            self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(64, 10))

        def forward(self, image: Tensor) -> Tensor:
            features = self.features(image)
            logits: Tensor = self.classifier(features.view(features.shape[0], -1))
            return logits

    return DigitsCnn()


SPEC = ModelSpec(
    name="digits_cnn",
    source="trained by models/digits_cnn.py on scikit-learn's digits",
    opset=DYNAMO.opset,
    inputs=INPUTS,
    tolerance=1e-5,
    build=partial(train_and_export, create, 60, DYNAMO),
    committed=True,
)

if __name__ == "__main__":
    SPEC.build(Path(__file__).with_suffix(".onnx"))

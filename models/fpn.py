"""A detector like YOLO: stages that split and concatenate, a pyramid with Resize, three heads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exporting import EXPORTERS, Exporter
from spec import Input, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

INPUTS = {"image": Input("float32", ("batch", 3, 128, 128))}
OUTPUTS: dict[str, tuple[int | str, ...]] = {
    f"level{level}": ("batch", 24, 128 // 8 >> level, 128 // 8 >> level) for level in range(3)
}


def create() -> nn.Module:
    """The untrained network."""
    import torch
    from torch import nn

    def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())

    class Split(nn.Module):
        """Half of the channels goes through a bottleneck; all parts are concatenated."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            half = outputs // 2
            self.enter = conv(inputs, outputs)
            self.first, self.second = conv(half, half, 3), conv(half, half, 3)
            self.leave = conv(3 * half, outputs)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.enter(x).chunk(2, dim=1)
            return self.leave(
                torch.cat([one, other, other + self.second(self.first(other))], dim=1)
            )

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(conv(3, 32, 3, 2), conv(32, 64, 3, 2))
            self.stages = nn.ModuleList(
                nn.Sequential(conv(inputs, outputs, 3, 2), Split(outputs, outputs))
                for inputs, outputs in ((64, 128), (128, 256), (256, 512))
            )
            self.pool, self.mixed = nn.MaxPool2d(5, 1, 2), conv(1024, 512)
            self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
            self.middle, self.top = Split(768, 256), Split(384, 128)
            self.heads = nn.ModuleList(
                nn.Sequential(conv(width, width, 3), nn.Conv2d(width, 24, 1))
                for width in (128, 256, 512)
            )

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            x, levels = self.stem(image), []
            for stage in self.stages:
                x = stage(x)
                levels.append(x)
            deep = self.mixed(torch.cat([x, self.pool(x)], dim=1))
            middle = self.middle(torch.cat([self.up(deep), levels[1]], dim=1))
            top = self.top(torch.cat([self.up(middle), levels[0]], dim=1))
            pairs = zip(self.heads, (top, middle, deep), strict=True)
            return tuple(head(value) for head, value in pairs)

    return Detector().eval()


def _build(exporter: Exporter, path: Path) -> None:
    from weights import randomize, settle_batch_norms

    module = create()
    randomize(module)
    settle_batch_norms(module, INPUTS)
    exporter.export(module, INPUTS, OUTPUTS, path)


SPECS = tuple(
    ModelSpec(
        name=f"fpn_{exporter.suffix}",
        source="a small detector of this project, seeded random weights",
        opset=exporter.opset,
        inputs=INPUTS,
        tolerance=1e-4,
        build=partial(_build, exporter),
    )
    for exporter in EXPORTERS
)

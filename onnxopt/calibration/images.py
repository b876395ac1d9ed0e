"""Images as inputs: how they are resized, cropped, scaled and laid out.

    size=224,resize=256,scale=255,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,channels=rgb

`resize` is the length that the shorter side gets before the middle is cropped out; without it the
image is squeezed to the size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError, MissingDependencyError

Channels = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# A picture of more pixels would fill the memory before it is resized.
_MOST_PIXELS = 1 << 28


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """From an image file to an array with a batch of 1.

    Attributes:
        size: Height and width; None for those of the model's input.
        resize: Length of the shorter side before cropping; None for no cropping.
        scale: What pixels, 0 to 255, are divided by.
        mean: Subtracted then, for each channel.
        std: Divided by then, for each channel.
        channels: Order of the channels.
        layout: Order of the axes; None for what fits the model's input.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Channels = "rgb"
    layout: Layout | None = None

    def apply(self, path: Path) -> NDArray[np.float32]:
        """Reads one image.

        Raises:
            InvalidInputError: It cannot be read.
            MissingDependencyError: Pillow is not installed.
        """
        assert self.size is not None
        height, width = self.size
        pixels = np.asarray(_read(path, self.channels, height, width, self.resize), np.float32)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        pixels = ((pixels / np.float32(self.scale) - mean) / std)[None]
        if self.layout != "nhwc":
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, np.float32)

    def fitted(self, shape: tuple[int | str | None, ...]) -> ImagePreprocessing:
        """With layout and size filled in from an input's shape.

        Raises:
            InvalidInputError: The input takes no images, or nothing says how large they are.
        """
        if len(shape) != 4:
            raise InvalidInputError(f"images need an input of rank 4, not of shape {list(shape)}")
        count = 1 if self.channels == "gray" else 3
        layout = self.layout or ("nhwc" if shape[3] == count and shape[1] != count else "nchw")
        sides = shape[1:3] if layout == "nhwc" else shape[2:4]
        size = self.size
        if size is None:
            height, width = sides
            if not isinstance(height, int) or not isinstance(width, int):
                raise InvalidInputError(
                    "the model takes images of any size; give one: --preprocess size=224"
                )
            size = (height, width)
        return dataclasses.replace(self, size=size, layout=layout)


def parse_preprocessing(text: str) -> ImagePreprocessing:
    """Reads `size=224,mean=0.485/0.456/0.406,...`; an empty text is the default.

    Raises:
        InvalidInputError: It is not of that form.
    """
    fields: dict[str, Any] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, _, value = part.partition("=")
        try:
            fields[name] = _PARSERS[name](value)
        except KeyError as error:
            raise InvalidInputError(
                f"--preprocess {name!r}: the options are {', '.join(_PARSERS)}"
            ) from error
        except ValueError as error:
            raise InvalidInputError(
                f"--preprocess {part!r}: write for example size=224x224, resize=256, scale=255, "
                "mean=0.485/0.456/0.406, channels=bgr, layout=nhwc"
            ) from error
    return ImagePreprocessing(**fields)


def _size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split("x")]
    if not 1 <= len(sides) <= 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split("/"))


def _channels(text: str) -> Channels:
    if text not in get_args(Channels):
        raise ValueError(text)
    return cast(Channels, text)


def _layout(text: str) -> Layout:
    if text not in get_args(Layout):
        raise ValueError(text)
    return cast(Layout, text)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "size": _size,
    "resize": int,
    "scale": float,
    "mean": _numbers,
    "std": _numbers,
    "channels": _channels,
    "layout": _layout,
}


def _read(path: Path, channels: Channels, height: int, width: int, resize: int | None) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError(
            "images are read with Pillow: pip install 'onnxopt[images]'"
        ) from error
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise InvalidInputError(f"{path}: {opened.width} x {opened.height} is too large")
            image = opened.convert("L" if channels == "gray" else "RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise InvalidInputError(f"{path}: cannot read the image: {error}") from error
    if resize is None:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    factor = resize / min(image.width, image.height)
    sides = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    image = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))

"""What a reference model is, and real inputs for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Role = Literal["normal", "digits", "tokens", "segments", "mask", "positions"]
Arrays = dict[str, npt.NDArray[Any]]

DEFAULT_SIZES: Mapping[str, int] = {"batch": 2, "sequence": 16, "past": 8}


class Input(NamedTuple):
    """One graph input.

    Attributes:
        dtype: The numpy name of the element type.
        shape: Sizes; a string is a symbolic dimension or a sum of them, as in `"past + sequence"`.
        role: What the values mean, which decides how examples are drawn.
        vocabulary: The number of token ids, for the role `"tokens"`.
    """

    dtype: str
    shape: tuple[int | str, ...]
    role: Role = "normal"
    vocabulary: int = 0

    def sizes(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbolic dimension replaced by its size."""
        return tuple(
            size if isinstance(size, int) else sum(symbols[term] for term in size.split(" + "))
            for size in self.shape
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A reference model and how it is made.

    Attributes:
        name: Unique; also the name of the file.
        source: Where the architecture and the weights come from.
        opset: The version of the default operator domain.
        inputs: The graph inputs, in order.
        tolerance: The largest error that two float32 runs of the model may differ by, relative to
            the largest absolute value of the output.
        build: Writes the model to the path it is given, its external data beside it.
        committed: Whether the file lies in the repository, beside the script that trained it.
        version: Raised with every change of what `build` writes; part of the path in the cache.
    """

    name: str
    source: str
    opset: int
    inputs: Mapping[str, Input]
    tolerance: float
    build: Callable[[Path], None]
    committed: bool = False
    version: int = 1


def example_inputs(
    inputs: Mapping[str, Input], sizes: Mapping[str, int] = DEFAULT_SIZES, seed: int = 0
) -> Arrays:
    """Draws seeded inputs that mean what the model expects them to mean.

    Args:
        inputs: The graph inputs, as in `ModelSpec.inputs`.
        sizes: The size of every symbolic dimension; missing ones take the default.
        seed: Of the random generator.

    Returns:
        Name -> array. Masks are ragged from the second row on: padding stands on the left of a
        past and on the right without one, so that no query is left without a key.
    """
    generator = np.random.default_rng(seed)
    symbols = {**DEFAULT_SIZES, **sizes}
    has_past = any("past" in entry.shape for entry in inputs.values()) and symbols["past"] > 0
    masks = [entry for entry in inputs.values() if entry.role == "mask"]
    mask = _ragged_mask(masks[0].sizes(symbols), symbols, has_past) if masks else None
    return {
        name: _draw(entry, entry.sizes(symbols), mask, generator).astype(entry.dtype)
        for name, entry in inputs.items()
    }


def _draw(
    entry: Input,
    shape: tuple[int, ...],
    mask: npt.NDArray[Any] | None,
    generator: np.random.Generator,
) -> npt.NDArray[Any]:
    if entry.role == "tokens":
        return generator.integers(0, entry.vocabulary, shape)
    if entry.role == "segments":
        return np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape)
    if entry.role == "digits":
        from digits_data import digits

        images: npt.NDArray[Any] = digits().test_images
        return images[generator.integers(0, len(images), shape[0])]
    if entry.role == "normal":
        return generator.standard_normal(shape, dtype=np.float32)
    if mask is None:
        raise ValueError(f"An input with the role {entry.role!r} needs one with the role 'mask'.")
    if entry.role == "mask":
        return mask
    positions: npt.NDArray[Any] = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return positions[:, -shape[1] :]


def _ragged_mask(
    shape: tuple[int, ...], symbols: Mapping[str, int], has_past: bool
) -> npt.NDArray[np.int64]:
    batch, length = shape
    paddable = symbols["past"] if has_past else length
    padding = np.arange(batch)[:, None] * paddable // (2 * batch)
    columns = np.arange(length)[None, :]
    valid = columns >= padding if has_past else columns < length - padding
    return valid.astype(np.int64)

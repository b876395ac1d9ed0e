"""Arrays for inputs, filled according to what the input means."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.inputs.axes import AxisKind, InputSpec, Sizes

_WORDS = ("a", "the quick brown fox", "ONNX", "optimizer", "")
_SAMPLE_RATES = (16000, 8000)
_SCALES = {"state": 0.1, "past": 0.5}
# One run of three has small values: those of the others may saturate a classifier.
_FAINT = 0.2
# Trip counts of loops in the first, second, third and fourth run.
TRIPS = (1, 3, 2, 0)
# Instead of what the roles say, where the model does not run or gives NaN.
Variant = Literal["", "small integers", "inverted masks", "positive numbers"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What all inputs of one run have in common.

    Attributes:
        sizes: Size of every symbol.
        run: Number of the run; values alternate with it.
        seed: Seed of all random values.
        length: Size of the sequence.
        past: Length of the cache that comes before it; 0 without a cache.
        lengths: Valid length of each item of the batch; ragged in some runs.
        left: Padding is on the left.
        variant: What is other than the roles say.
    """

    sizes: Sizes
    run: int
    seed: int
    length: int
    past: int
    lengths: tuple[int, ...]
    left: bool = False
    variant: Variant = ""


def variants(specs: Sequence[InputSpec]) -> tuple[Variant, ...]:
    """Other ways to fill the inputs, for a model that does not run or gives NaN."""
    roles = {spec.role.kind for spec in specs}
    found: list[Variant] = []
    if any(s.role.kind == "integers" and s.role.range for s in specs) or "trips" in roles:
        found.append("small integers")
    if "mask" in roles:
        found.append("inverted masks")
    if roles & {"image", "signal"}:
        found.append("positive numbers")
    return tuple(found)


def make_scene(
    specs: Sequence[InputSpec],
    kinds: Mapping[str, AxisKind],
    sizes: Sizes,
    run: int,
    seed: int,
    variant: Variant = "",
) -> Scene:
    """Works out the lengths that masks, positions and length inputs have to agree on."""
    length = _first(kinds, sizes, "sequence")
    batch = _first(kinds, sizes, "batch")
    for spec in specs:
        if spec.role.kind in ("tokens", "signal") and len(spec.dims) > 1:
            shape = spec.shape(sizes)
            # Of a signal [batch, time, features] the time; of [batch, time] the time as well.
            length = shape[1] if length is None else length
            batch = shape[0] if batch is None else batch
            break
    length, batch = length or 1, batch or 1
    past = _first(kinds, sizes, "past") or 0
    counted = any(spec.role.kind == "lengths" for spec in specs)
    lengths = [length] * batch
    if run % 3 and length > 1:
        # The first item stays full, and lengths fall: packed sequences need both.
        lengths = [max(1, length - (item * length) // (batch + 1)) for item in range(batch)]
        if batch == 1 and not counted:
            lengths = [max(1, 2 * length // 3)]
    left = run % 3 == 2 and not counted
    return Scene(sizes, run, seed, length, past, tuple(lengths), left, variant)


def is_ragged(scene: Scene) -> bool:
    """True if an item of the batch is shorter than the sequence."""
    return min(scene.lengths) < scene.length


def fill(spec: InputSpec, scene: Scene) -> NDArray[Any] | list[NDArray[Any]]:
    """The array for one input, or a list of some for a sequence."""
    if not spec.sequence:
        return _fill_tensor(spec, scene)
    names = [f"{spec.name}[{item}]" for item in range(2 + scene.run % 2)]
    return [_fill_tensor(dataclasses.replace(spec, name=name), scene) for name in names]


def _fill_tensor(spec: InputSpec, scene: Scene) -> NDArray[Any]:
    shape = spec.shape(scene.sizes)
    # By name: an input gets the same values whichever other inputs the model has.
    rng = np.random.default_rng([scene.seed, scene.run, zlib.crc32(spec.name.encode())])
    kind = spec.role.kind
    if kind == "text":
        words = np.array(spec.role.words or _WORDS, dtype=object)
        return np.asarray(rng.choice(words, size=shape), dtype=object)
    dtype = spec.dtype.numpy()
    values: NDArray[Any]
    match kind:
        case "tokens":
            values = rng.integers(0, _within(dtype, spec.role.bound or 1), size=shape)
        case "integers":
            low, high = (int(limit) for limit in spec.role.range or (0, 3))
            if scene.variant == "small integers":
                low, high = max(low, 0), min(high, 3)
            values = rng.integers(low, _within(dtype, high + 1), size=shape)
        case "bytes":
            values = rng.integers(0, 256, size=shape)
        case "mask":
            values = _mask(shape, scene)
            values = 1 - values if scene.variant == "inverted masks" else values
        case "positions":
            values = np.broadcast_to(scene.past + np.arange(shape[-1] if shape else 1), shape)
            values = values % spec.role.bound if spec.role.bound else values
        case "segments":
            last = shape[-1] if shape else 1
            bound = min(spec.role.bound or 2, 2)
            values = np.broadcast_to((np.arange(last) >= (last + 1) // 2) % bound, shape)
        case "lengths":
            count = shape[0] if shape else 1
            values = np.resize(np.array(scene.lengths), count).reshape(shape)
        case "rate":
            values = np.full(shape, _SAMPLE_RATES[scene.run % len(_SAMPLE_RATES)])
        case "count":
            values = np.ones(shape)
        case "trips":
            usual = scene.variant != "small integers"
            values = np.full(shape, TRIPS[scene.run % len(TRIPS)] if usual else 1)
        case "condition":
            values = rng.integers(0, 2, size=shape) if shape else np.array(scene.run % 2 == 0)
        case "state" if scene.run == 0:
            values = np.zeros(shape)
        case _:
            values = _floats(spec, shape, scene, rng)
    return np.ascontiguousarray(values).astype(dtype).reshape(shape)


def _floats(
    spec: InputSpec, shape: tuple[int, ...], scene: Scene, rng: np.random.Generator
) -> NDArray[Any]:
    if np.issubdtype(spec.dtype.numpy(), np.integer):
        return rng.integers(0, 256, size=shape)  # the pixels of an image
    if spec.role.range is not None:
        low, high = spec.role.range
        return low + (high - low) * rng.random(shape, dtype=np.float32)
    if spec.role.kind in ("image", "signal"):
        if scene.variant == "positive numbers":
            return np.float32(0.5) + rng.random(shape, dtype=np.float32)
        if scene.run % 3 == 1:
            return rng.random(shape, dtype=np.float32)
    values = rng.standard_normal(shape, dtype=np.float32)
    scale = _SCALES.get(spec.role.kind, 1.0)
    if spec.role.kind in ("image", "signal") and scene.run % 3 == 2:
        scale = _FAINT
    return values * np.float32(scale)


def _mask(shape: tuple[int, ...], scene: Scene) -> NDArray[Any]:
    """Ones, and zeros where an item of the batch is shorter.

    The padding is on the right in one run and on the left in the next: behind a causal mask what is
    on the right is never seen. After a cache it is on the left, inside the cache, because the new
    tokens are at the end and have to see themselves.
    """
    mask = np.ones(shape, np.int64)
    if len(shape) < 2 or shape[0] != len(scene.lengths):
        return mask
    positions = np.arange(shape[-1])
    for item, length in enumerate(scene.lengths):
        missing = scene.length - length
        if scene.past:
            mask[item, ..., positions < min(missing, scene.past)] = 0
        elif scene.left:
            mask[item, ..., positions < min(missing, shape[-1] - 1)] = 0
        else:
            mask[item, ..., positions >= max(1, shape[-1] - missing)] = 0
    return mask


def _within(dtype: np.dtype[Any], bound: int) -> int:
    return min(bound, int(np.iinfo(dtype).max) + 1)


def _first(kinds: Mapping[str, AxisKind], sizes: Sizes, kind: AxisKind) -> int | None:
    return next((sizes[symbol] for symbol, other in kinds.items() if other == kind), None)

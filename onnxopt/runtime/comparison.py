"""How far one result is from another: arrays, and sequences and maps of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Values beyond this are masks (-1e9, the lowest float), not a scale to measure errors by.
_LARGEST_SCALE = 1e8
# An output that is smaller than this everywhere is measured as if it were this large.
_SMALLEST_SCALE = 1e-3
# From so many entries on, the last axis may be classes.
_FEWEST_CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far an output is from its reference.

    Attributes:
        kind: "float", "integer", "boolean" or "text"; of a sequence, that of its items.
        largest: Largest absolute error; for integers the largest step.
        relative: Largest error relative to the larger of the element and the output's scale.
        rms: Root mean square of the error relative to that of the reference.
        gain: How much larger or smaller the result is as a whole: an error in common, such as a
            wrong scale, while errors of rounding cancel out.
        cosine: Cosine of the angle between both; 1 for equal ones.
        top1: Share of rows whose largest entry is at the same place, or None.
        mismatches: Share of entries that differ at all.
        elements: Number of entries compared.
        broken: What makes both incomparable (shape, type, NaN, infinity); empty if nothing does.
    """

    kind: str
    largest: float = 0.0
    relative: float = 0.0
    rms: float = 0.0
    gain: float = 0.0
    cosine: float = 1.0
    top1: float | None = None
    mismatches: float = 0.0
    elements: int = 0
    broken: str = ""

    def merge(self, other: Difference) -> Difference:
        """The worse of both, for several runs or the items of a sequence."""
        top1 = [share for share in (self.top1, other.top1) if share is not None]
        elements = self.elements + other.elements
        wrong = self.mismatches * self.elements + other.mismatches * other.elements
        return Difference(
            self.kind if self.elements or not other.elements else other.kind,
            max(self.largest, other.largest),
            max(self.relative, other.relative),
            max(self.rms, other.rms),
            max(self.gain, other.gain),
            min(self.cosine, other.cosine),
            min(top1) if top1 else None,
            wrong / elements if elements else 0.0,
            elements,
            self.broken or other.broken,
        )


def compare(reference: Any, result: Any) -> Difference:
    """Compares a result with its reference.

    Where the reference is NaN, anything goes: it is no result to keep.
    """
    if isinstance(reference, Mapping):
        return _compare_maps(reference, result)
    if isinstance(reference, Sequence) and not isinstance(reference, (str, bytes)):
        return _compare_sequences(reference, result)
    if reference is None or result is None:
        return Difference("float", broken="" if reference is result else "one result is missing")
    return _compare_arrays(np.asarray(reference), np.asarray(result))


def _compare_maps(reference: Mapping[Any, Any], result: Any) -> Difference:
    if not isinstance(result, Mapping) or reference.keys() != result.keys():
        return Difference("float", broken="the keys of a map differ")
    # One array per map, so that its values share a scale.
    keys = list(reference)
    return compare(np.array([reference[k] for k in keys]), np.array([result[k] for k in keys]))


def _compare_sequences(reference: Sequence[Any], result: Any) -> Difference:
    if not isinstance(result, Sequence) or len(reference) != len(result):
        return Difference("float", broken="the lengths of a sequence differ")
    total = Difference("float")
    for one, other in zip(reference, result, strict=True):
        total = total.merge(compare(one, other))
    return total


def _compare_arrays(reference: NDArray[Any], result: NDArray[Any]) -> Difference:
    kind = _kind(reference)
    if reference.dtype.kind in "OUS" or result.dtype.kind in "OUS":
        equal = reference.shape == result.shape and bool(np.all(reference == result))
        share = 0.0 if equal else _share_of_unequal(reference, result)
        return Difference("text", mismatches=share, elements=reference.size)
    if reference.dtype != result.dtype:
        return Difference(kind, broken=f"type {result.dtype}, not {reference.dtype}")
    if reference.shape != result.shape:
        return Difference(kind, broken=f"shape {list(result.shape)}, not {list(reference.shape)}")
    if kind == "float":
        return _compare_floats(reference, result)
    # Exact also at the ends of int64 and uint64.
    unequal = reference != result
    steps = np.abs(reference[unequal].astype(np.float64) - result[unequal].astype(np.float64))
    return Difference(
        kind,
        largest=float(steps.max(initial=0.0)),
        mismatches=float(unequal.mean()) if unequal.size else 0.0,
        elements=reference.size,
    )


def _compare_floats(reference: NDArray[Any], result: NDArray[Any]) -> Difference:
    if reference.dtype.kind == "c":
        reference, result = (_as_reals(array) for array in (reference, result))
    # float64 for the sums; errors of float64 itself are far below any tolerance.
    wide = np.float64 if reference.dtype.itemsize > 4 else np.float32
    a: NDArray[Any] = reference.astype(wide)
    b: NDArray[Any] = result.astype(wide)
    nan = np.isnan(a)
    new_nan = np.isnan(b) & ~nan
    if new_nan.any():
        return Difference("float", elements=a.size, broken=f"{int(new_nan.sum())} new NaN")
    infinite = np.isinf(a)
    if not np.array_equal(np.where(infinite, a, 0), np.where(np.isinf(b) & ~nan, b, 0)):
        return Difference("float", elements=a.size, broken="infinities differ")
    top1 = _top1_agreement(a, b)
    if nan.any() or infinite.any():
        finite = ~(nan | infinite)
        a, b = a[finite], b[finite]
    if a.size == 0 or np.array_equal(a, b):
        return Difference("float", top1=top1, elements=a.size)
    magnitude = np.abs(a)
    errors = np.abs(a.astype(np.float64) - b)
    usual = magnitude <= _LARGEST_SCALE
    kept = magnitude[usual] if usual.any() else magnitude
    scale = max(float(kept.max()), _SMALLEST_SCALE)
    return Difference(
        "float",
        largest=float(errors.max()),
        relative=float((errors / np.maximum(magnitude, scale)).max()),
        rms=_rms(errors[usual]) / max(_rms(kept), _SMALLEST_SCALE),
        gain=_gain(a[usual], b[usual]),
        cosine=_cosine(a[usual], b[usual]),
        top1=top1,
        mismatches=float((errors > 0).mean()),
        elements=a.size,
    )


def _top1_agreement(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Agreement of the largest entry along the last axis, where that axis may be classes."""
    if a.ndim < 2 or a.shape[-1] < _FEWEST_CLASSES or a.size == 0:
        return None
    return float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())


def _rms(values: NDArray[Any]) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _gain(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The factor by which `a` fits `b` best, less one."""
    first = a.astype(np.float64).ravel()
    energy = max(float(first @ first), first.size * _SMALLEST_SCALE**2)
    return abs(float(first @ (b.astype(np.float64).ravel() - first))) / energy


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    first, second = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norms == 0.0:
        return 1.0 if np.array_equal(first, second) else 0.0
    return float(first @ second) / norms


def _as_reals(array: NDArray[Any]) -> NDArray[Any]:
    return np.stack([array.real, array.imag])


def _share_of_unequal(reference: NDArray[Any], result: NDArray[Any]) -> float:
    if reference.shape != result.shape:
        return 1.0
    return float(np.mean(reference != result))


def _kind(array: NDArray[Any]) -> str:
    kinds = {"b": "boolean", "i": "integer", "u": "integer", "O": "text", "U": "text", "S": "text"}
    return kinds.get(array.dtype.kind, "float")

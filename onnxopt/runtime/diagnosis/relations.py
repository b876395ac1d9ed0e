"""How one array came out of another, in words: scaled, transposed, shifted, clipped."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# How the relation begins that nothing but an error is known of.
ROUNDED = "off by"

# Larger arrays are looked at in their first corner, which a transposition keeps in place.
_MOST_ELEMENTS = 1 << 20
_MOST_AXES = 4
_CLOSE = 1e-5
_STEPS = (1, -1, 2, -2)
_FEW = 0.01
_MANY = 0.005


def relation(reference: Array, result: Array) -> str:
    """Says what makes `result` differ from `reference`; empty if nothing does.

    The words read on from a name: "weight: scaled by 1.01".
    """
    if reference.shape != result.shape:
        if reference.T.shape == result.shape and _close(reference.T, result):
            return "transposed"
        return f"of shape {list(result.shape)}, not {list(reference.shape)}"
    if reference.dtype.kind in "OUSb" or result.dtype.kind in "OUSb":
        share = float(np.mean(reference != result)) if reference.size else 0.0
        return f"{share:.2%} of the entries differ" if share else ""
    one, other = _corner(reference), _corner(result)
    words = broken(one, other)
    if words or _close(one, other, 1e-7):
        return words
    return next((text for rule in _RULES if (text := rule(one, other))), _unlike(one, other))


def broken(reference: Array, result: Array) -> str:
    """NaN and infinity that the reference does not have."""
    if result.dtype.kind != "f":
        return ""
    fine = np.isfinite(reference)
    nan, infinite = int((np.isnan(result) & fine).sum()), int((np.isinf(result) & fine).sum())
    if infinite:
        largest = float(np.abs(reference[fine]).max(initial=0.0))
        return f"overflow: {infinite} infinite entries, the original reaches {largest:.3g}"
    if nan:
        return f"{nan} of {result.size} entries are NaN"
    return ""


def _corner(array: Array) -> Array:
    side = array.shape
    while array.size > _MOST_ELEMENTS:
        longest = max(array.shape)
        array = array[tuple(slice(0, max(longest // 2, 1)) for _ in side)]
    wide = np.float64 if array.dtype.itemsize > 4 or array.dtype.kind in "iu" else np.float32
    widened: Array = array.astype(wide)
    return widened


def _close(a: Array, b: Array, tolerance: float = _CLOSE) -> bool:
    if a.shape != b.shape or a.size == 0:
        return a.shape == b.shape
    if a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return bool(np.array_equal(a, b))
    scale = float(np.abs(a).max()) or 1.0
    return float(np.abs(a.astype(np.float64) - b).max()) <= tolerance * scale


def _all_equal(a: Array, b: Array) -> str:
    if b.size > 1 and not np.ptp(b) and np.ptp(a):
        return f"{float(b.flat[0]):.6g} everywhere"
    return ""


def scaling(reference: Array, result: Array, rounding: float = 0.0) -> str:
    """By what factor `result` is larger; empty if there is none.

    Args:
        reference: What it was.
        result: What it is.
        rounding: Error beside the factor, relative to `reference`, that does not count.
    """
    energy = float(np.vdot(reference, reference))
    factor = float(np.vdot(reference, result)) / energy if energy else 0.0
    rest = float(np.sqrt(np.mean(np.square(result - factor * reference))))
    size = float(np.sqrt(energy / max(reference.size, 1)))
    moved = abs(factor - 1) * size
    if not moved or rest > 0.02 * moved + rounding * size or moved < 2 * rounding * size:
        return ""
    return "negated" if abs(factor + 1) < _CLOSE else f"scaled by {factor:.6g}"


def _offset(a: Array, b: Array) -> str:
    step = b.astype(np.float64) - a
    mean = float(step.mean())
    if a.size < 2 or not mean or float(step.std()) > 0.02 * abs(mean):
        return ""
    return f"larger by {mean:.6g} everywhere"


def _moved_axes(a: Array, b: Array) -> str:
    if not 2 <= a.ndim <= _MOST_AXES:
        return ""
    for axes in itertools.permutations(range(a.ndim)):
        if axes == tuple(range(a.ndim)) or a.transpose(axes).shape != b.shape:
            continue
        if _close(a.transpose(axes), b):
            return "transposed" if a.ndim == 2 else f"transposed by {list(axes)}"
    return ""


def _shifted(a: Array, b: Array) -> str:
    for axis, step in itertools.product(range(a.ndim), _STEPS):
        length = a.shape[axis]
        if length <= 2 * abs(step):
            continue
        one, other = (np.moveaxis(array, axis, 0) for array in (a, b))
        inner = (one[:-step], other[step:]) if step > 0 else (one[-step:], other[:step])
        if _close(*inner) and np.ptp(one):
            return f"shifted by {step} along axis {axis}"
    return ""


def _reordered(a: Array, b: Array) -> str:
    for axis in range(a.ndim):
        one, other = (np.moveaxis(x, axis, 0).reshape(a.shape[axis], -1) for x in (a, b))
        weights = np.cos(np.arange(one.shape[1]))
        keys, other_keys = one @ weights, other @ weights
        order, other_order = np.argsort(keys), np.argsort(other_keys)
        if a.shape[axis] > 1 and _close(one[order], other[other_order]):
            return f"reordered along axis {axis}"
    return ""


def _clipped(a: Array, b: Array) -> str:
    low, high = float(b.min()), float(b.max())
    cut = (a > high) | (a < low)
    share = float(cut.mean())
    rest = float(np.abs(np.clip(a, low, high) - b).max())
    # Cut off, and at most rounded in between; the cut is what makes the difference.
    rounded = rest <= 0.01 * max(high - low, _CLOSE)
    if share < _MANY or not rounded or float(np.abs(a - b).max()) < 5 * rest:
        return ""
    return f"clipped: {share:.1%} of the values are cut off at [{low:.4g}, {high:.4g}]"


def _scaled_slices(a: Array, b: Array) -> str:
    if a.ndim < 2:
        return ""
    for axis in range(a.ndim):
        one, other = (np.moveaxis(x, axis, 0).reshape(a.shape[axis], -1) for x in (a, b))
        factors = (one * other).sum(1) / np.maximum((one * one).sum(1), 1e-30)
        if one.shape[1] > 1 and _close(one * factors[:, None], other):
            low, high = float(factors.min()), float(factors.max())
            return f"scaled along axis {axis} by {low:.4g} to {high:.4g}"
    return ""


def _few(a: Array, b: Array) -> str:
    differing = int((np.abs(b - a) > _CLOSE * (float(np.abs(a).max()) or 1.0)).sum())
    return f"{differing} of {a.size} entries differ" if 0 < differing <= _FEW * a.size else ""


def _unlike(a: Array, b: Array) -> str:
    error = float(np.sqrt(np.mean(np.square(b.astype(np.float64) - a))))
    size = float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))
    if not error:
        return "differs outside of the part that was looked at"
    return f"{ROUNDED} {error / size:.2g} of its size" if size else f"{ROUNDED} {error:.2g}"


_RULES: tuple[Callable[[Array, Array], str], ...] = (
    _all_equal,
    scaling,
    _offset,
    _moved_axes,
    _shifted,
    _clipped,
    _few,
    _reordered,
    _scaled_slices,
)

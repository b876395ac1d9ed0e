"""The errors of an array of floats in figures, a part at a time, so that memory is bounded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.slice_errors import SliceErrors
from onnxopt.runtime.parity.spooling import release

# Entries that are so many times the median are no scale to measure the others by: masks, the
# lowest float, or the counts beside a probability.
_OUTLIER = 1e3
# But none of these: beside the many small probabilities of a classifier the few large ones count.
_LARGEST_PROBABILITY = 1.0
# An output that is smaller than this everywhere is measured as if it were this large.
_SMALLEST_SCALE = 1e-3
# From so many entries on, the last axis may be classes.
_FEWEST_CLASSES = 5
# Entries of a row closer than this, relative to its largest, are equally large.
_TIE = 1e-6
_ENTRIES_AT_A_TIME = 1 << 18

Array = NDArray[Any]


def float_errors(reference: Array, result: Array) -> Difference:
    """Compares two arrays of floats of one shape.

    NaN and infinities have to be at the same places; what else is there is compared.
    """
    classes = reference.shape[-1] if reference.ndim > 1 else 0
    rows = reference.size // classes if classes >= _FEWEST_CLASSES else 0
    equal = Difference("float", elements=reference.size, rows=rows)
    if reference.size == 0:
        return equal
    if _same_bytes(reference, result):
        return dataclasses.replace(equal, nan=_count_nan(reference))
    scale, outlier = _scale(reference)
    slices = SliceErrors(reference.shape)
    squares = np.zeros(3)  # of the reference, of the result, of the error; outliers left out
    products = np.zeros(2)  # of the reference with the result, and with the error
    largest = relative = rms = gain = 0.0
    cosine = 1.0
    wrong = usual = flips = nan_entries = new_nan = gone_nan = infinite = 0
    for start, a, b in _parts(reference, result):
        nan, other_nan = np.isnan(a), np.isnan(b)
        finite = np.isfinite(a) & np.isfinite(b)
        nan_entries += int(nan.sum())
        new_nan += int((other_nan & ~nan).sum())
        gone_nan += int((nan & ~other_nan).sum())
        if not finite.all():
            both = ~(nan | other_nan)
            infinite += int((a[both & ~finite] != b[both & ~finite]).sum())
            a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        if rows:
            flips += _flips(a, b)
        errors = np.abs(b - a)
        magnitude = np.abs(a)
        largest = max(largest, float(errors.max()))
        relative = max(relative, float((errors / np.maximum(magnitude, scale)).max()))
        wrong += int(np.count_nonzero(errors))
        slices.add(start, (np.square(errors), np.square(magnitude)))
        if (magnitude > outlier).any():
            kept = magnitude <= outlier
            a, b, errors = a[kept], b[kept], errors[kept]
        a, b, errors = a.ravel(), b.ravel(), errors.ravel()
        usual += a.size
        squares += (a @ a, b @ b, errors @ errors)
        products += (a @ b, a @ (b - a))
    if usual and squares[2]:
        least = usual * _SMALLEST_SCALE**2
        rms = math.sqrt(squares[2] / max(squares[0], least))
        gain = abs(products[1]) / max(squares[0], least)
        norms = math.sqrt(squares[0]) * math.sqrt(squares[1])
        cosine = float(products[0]) / norms if norms else 0.0
    return Difference(
        "float",
        largest=largest,
        relative=relative,
        rms=rms,
        gain=gain,
        cosine=cosine,
        mismatches=wrong / reference.size,
        elements=reference.size,
        rows=rows,
        flips=flips,
        slices=slices.worst(scale),
        nan=nan_entries,
        broken=_broken(new_nan, gone_nan, infinite),
    )


def _parts(reference: Array, result: Array) -> Iterator[tuple[int, Array, Array]]:
    """Whole rows of both as float64: number of the first row, and both as `[rows, columns]`."""
    columns = reference.shape[-1] if reference.ndim else 1
    a, b = (np.ascontiguousarray(array).reshape(-1, columns) for array in (reference, result))
    step = max(1, _ENTRIES_AT_A_TIME // columns)
    for start in range(0, len(a), step):
        yield (
            start,
            a[start : start + step].astype(np.float64),
            b[start : start + step].astype(np.float64),
        )
        release(reference)
        release(result)


def _same_bytes(reference: Array, result: Array) -> bool:
    """True for equal arrays; NaN equals itself."""
    return all(np.array_equal(a, b, equal_nan=True) for _, a, b in _parts(reference, result))


def _count_nan(array: Array) -> int:
    return sum(int(np.isnan(a).sum()) for _, a, _ in _parts(array, array))


def _scale(reference: Array) -> tuple[float, float]:
    """The size of the largest entry that is no outlier, and from where on entries are outliers."""
    flat = np.ascontiguousarray(reference).reshape(-1)
    sample = np.abs(flat[:: -(-flat.size // _ENTRIES_AT_A_TIME)].astype(np.float64))
    sample = sample[np.isfinite(sample) & (sample > 0)]
    usual = _OUTLIER * float(np.median(sample)) if sample.size else math.inf
    outlier = max(usual, _LARGEST_PROBABILITY)
    largest = 0.0
    for _, a, _ in _parts(reference, reference):
        magnitude = np.abs(a)
        kept = magnitude[magnitude <= outlier]  # neither NaN nor infinity is
        largest = max(largest, float(kept[np.isfinite(kept)].max(initial=0.0)))
    return max(largest, _SMALLEST_SCALE), outlier


def _flips(a: Array, b: Array) -> int:
    """Rows whose largest entry is at another place, ties left out."""
    top = a.max(axis=1)
    chosen = a[np.arange(len(a)), b.argmax(axis=1)]
    return int((top - chosen > _TIE * np.abs(a).max(axis=1)).sum())


def _broken(new_nan: int, gone_nan: int, infinite: int) -> str:
    if new_nan:
        return f"{new_nan} new NaN"
    if gone_nan:
        return f"{gone_nan} NaN of the first model are numbers"
    return "infinities differ" if infinite else ""

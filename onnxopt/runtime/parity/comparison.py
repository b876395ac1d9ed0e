"""How far one result is from another: arrays, and sequences and maps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.float_errors import float_errors
from onnxopt.runtime.parity.spooling import release


def compare(reference: Any, result: Any) -> Difference:
    """Compares a result with its reference.

    NaN and infinities have to be at the same places in both.
    """
    if isinstance(reference, Mapping):
        return _compare_maps(reference, result)
    if isinstance(reference, Sequence) and not isinstance(reference, (str, bytes)):
        return _compare_sequences(reference, result)
    if reference is None or result is None:
        return Difference("float", broken="" if reference is result else "one result is missing")
    found = _compare_arrays(np.asarray(reference), np.asarray(result))
    release(reference)
    release(result)
    return found


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
    return float_errors(reference, result)


def _as_reals(array: NDArray[Any]) -> NDArray[Any]:
    return np.stack([array.real, array.imag])


def _share_of_unequal(reference: NDArray[Any], result: NDArray[Any]) -> float:
    if reference.shape != result.shape:
        return 1.0
    return float(np.mean(reference != result))


def _kind(array: NDArray[Any]) -> str:
    kinds = {"b": "boolean", "i": "integer", "u": "integer", "O": "text", "U": "text", "S": "text"}
    return kinds.get(array.dtype.kind, "float")

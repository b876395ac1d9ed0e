"""A node's own error: what it computes from the original's inputs, against what the original did.

All regions of a chunk run in one session: wherever a paired value is read, the original's is fed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.graph.mapped import release_weights
from onnxopt.runtime.diagnosis.probing import Arrays, as_declared, open_plain
from onnxopt.runtime.diagnosis.regions import FED, Region, cut
from onnxopt.runtime.parity.comparison import compare
from onnxopt.runtime.parity.conversion import Conversion
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.tolerance import QUANTIZED_FLOOR, Tolerance, above_noise
from onnxopt.runtime.session import Session

# Of larger values every so manieth element is compared.
_MOST_ELEMENTS = 1 << 22
# Relative to the value's scale, by the width of the coarsest type on the way.
_FLOORS = {4: 1e-5, 2: 4e-3}
_BFLOAT16_FLOOR = 3e-2
# How much larger than its root mean square the largest error of a conversion may be.
_PEAK = 5.0
# Masks are written as such numbers, and as infinity in float16.
_MASK = 1e8


@dataclasses.dataclass(frozen=True)
class Own:
    """What a region adds by itself.

    Attributes:
        difference: From the original's value.
        tolerance: What it may be.
        result: The value as the region computes it.
        feeds: What the region was fed.
    """

    difference: Difference
    tolerance: Tolerance
    result: NDArray[Any]
    feeds: Arrays


def replay(
    model: ir.Model,
    regions: Sequence[Region],
    originals: Mapping[str, Any],
    feeds: Arrays,
    conversion: Conversion | None = None,
) -> dict[str, Own]:
    """Runs regions on the original's values.

    Args:
        model: The rewritten model, with inferred types.
        regions: What to run.
        originals: The original's values by the names that they have in `model`.
        feeds: Graph inputs.
        conversion: What the model was converted to: so much error is usual in each part.

    Returns:
        Name of a region's value to its own error. Regions with inputs that do not fit into their
        type are left out: the error is where that value is made.

    Raises:
        CannotRunError: ONNX Runtime refuses the part of the model.
    """
    known = {v.name or "": v for r in regions for v in r.frontier if v.name in originals}
    for name, value in known.items():
        if value.type is None:  # of an operator that nobody can infer; it is fed, so it needs one
            value.type = ir.TensorType(ir.DataType.from_numpy(originals[name].dtype))
    given = {name: _as_type(originals[name], value) for name, value in known.items()}
    too_large = {name for name, array in given.items() if _overflows(originals[name], array)}
    regions = [
        region for region in regions if not any(v.name in too_large for v in region.frontier)
    ]
    if not regions:
        return {}
    targets = [region.value.name or "" for region in regions]
    session = open_plain(cut(model, targets, list(given)))
    results = _run(session, feeds, given)
    shaken = _run(session, _shaken(feeds), _shaken(given))
    del session
    release_weights(model)
    found = {}
    for region in regions:
        name = region.value.name or ""
        inputs = {
            v.name or "": given.get(v.name or "", feeds.get(v.name or "")) for v in region.frontier
        }
        arrays = {key: array for key, array in inputs.items() if array is not None}
        base = _floor(region, [*arrays.values(), results[name]], conversion)
        noise = difference(results[name], shaken[name])
        tolerance = base if noise.broken else above_noise(base, noise)
        own = difference(originals[name], results[name])
        found[name] = Own(own, tolerance, results[name], arrays)
    return found


def difference(reference: NDArray[Any], result: NDArray[Any]) -> Difference:
    """Compares two values of which one may be of a narrower type."""
    if reference.dtype != result.dtype and {reference.dtype.kind, result.dtype.kind} <= set("fV"):
        reference, result = reference.astype(np.float32), result.astype(np.float32)
        if reference.shape == result.shape:
            masked = (np.abs(reference) >= _MASK) & np.isinf(result)
            result = np.where(masked, reference, result)
    if reference.shape == result.shape and reference.size > _MOST_ELEMENTS:
        step = -(-reference.size // _MOST_ELEMENTS)
        # A step that shares a factor with the row length would see only some columns.
        step += 1 - step % 2
        reference, result = (array.reshape(-1)[::step] for array in (reference, result))
    return compare(reference, result)


def excess(found: Difference, tolerance: Tolerance) -> float:
    """How many times larger than tolerated a difference is; infinite if it cannot be measured."""
    if found.broken:
        return float("inf")
    if found.kind != "float":
        return 1e6 * found.mismatches if found.mismatches > tolerance.mismatches else 0.0
    return max(
        found.relative / tolerance.relative,
        found.rms / tolerance.rms,
        found.gain / tolerance.gain,
    )


def _run(session: Session, feeds: Arrays, given: Arrays) -> Arrays:
    stand_ins = {f"{name}{FED}": array for name, array in given.items()}
    return session.run(as_declared(session, {**feeds, **stand_ins}))


def _as_type(array: NDArray[Any], value: ir.Value) -> NDArray[Any]:
    dtype = value.dtype
    if dtype is None or array.dtype.kind not in "fV" or not dtype.is_floating_point():
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype.numpy())


def _overflows(original: NDArray[Any], array: NDArray[Any]) -> bool:
    if original.dtype == array.dtype or array.dtype.kind not in "fV":
        return False
    # Infinity in place of a mask is none.
    return bool(np.any(np.isinf(array) & (np.abs(original) < _MASK)))


def _is_quantized(node: ir.Node) -> bool:
    name = node.op_type
    return "quantize" in name.lower() or name.startswith(("QLinear", "MatMulN", "MatMulInt"))


def _shaken(arrays: Arrays) -> Arrays:
    """The arrays off by two roundings of their type here and there."""
    rng = np.random.default_rng(0)
    shaken = dict(arrays)
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind in "fV" and array.size:
            step = 2 * float(ml_dtypes.finfo(array.dtype).eps)  # type: ignore[no-untyped-call]
            signs = rng.choice(np.array([-step, step], np.float32), size=array.shape)
            with np.errstate(over="ignore"):  # the lowest float, as a mask
                shaken[name] = np.asarray(array * (1 + signs)).astype(array.dtype)
    return shaken


def _floor(
    region: Region, arrays: Sequence[NDArray[Any]], conversion: Conversion | None
) -> Tolerance:
    if any(_is_quantized(node) for node in region.nodes):
        if conversion is None:
            return QUANTIZED_FLOOR
        part = conversion.part
        return Tolerance(_PEAK * part, part, part, mismatches=part)
    floats = [array.dtype for array in arrays if array.dtype.kind in "fV"]
    types = {value.dtype for node in region.nodes for value in node.outputs}
    if ir.DataType.BFLOAT16 in types or any(dtype == ml_dtypes.bfloat16 for dtype in floats):
        error = _BFLOAT16_FLOOR
    elif ir.DataType.FLOAT16 in types or any(dtype.itemsize == 2 for dtype in floats):
        error = _FLOORS[2]
    else:
        error = _FLOORS[4]
    return Tolerance(error, error, error)

"""The largest magnitude of every value of a model on data: all that half precision asks for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxopt.calibration.collecting import DEFAULT_MEMORY
from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.runs import largest_sample, run_samples
from onnxopt.runtime.diagnosis.probing import Probe, chunks

# What is as negative as that rules something out; it may become minus infinity.
_MASK = -1e30


def largest_magnitudes(
    model: ir.Model,
    names: Iterable[str],
    data: CalibrationData,
    *,
    max_memory: int = DEFAULT_MEMORY,
) -> dict[str, float]:
    """Runs a model over data, in parts whose values fit the memory.

    Args:
        model: The float model.
        names: Values of the main graph; those that it does not compute are left out.
        data: What to run on.
        max_memory: Bytes for the values of one run, beyond the model itself.

    Returns:
        Magnitude by name, without infinities, NaN and masks.

    Raises:
        InvalidInputError: The model does not run on the data.
    """
    probe = Probe(model)
    samples = range(len(data))
    computed = [name for name in dict.fromkeys(names) if name in probe.values]
    sizes = probe.sizes(computed, data[largest_sample(data, samples)].feeds)
    found = dict.fromkeys(computed, 0.0)
    for part in chunks(computed, sizes, max_memory):
        for _, _, values in run_samples(probe, part, data, samples):
            for name in part:
                array = values.pop(name)
                if getattr(array, "dtype", np.dtype(bool)).kind in "fV" and array.size:
                    found[name] = max(found[name], _largest(array.astype(np.float32, copy=False)))
    return found


def _largest(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    low, high = float(array.min()), float(array.max())
    if low < _MASK or not np.isfinite(low + high):  # a NaN shows in both
        usable = array[np.isfinite(array) & (array >= _MASK)]
        low, high = (float(usable.min()), float(usable.max())) if usable.size else (0.0, 0.0)
    return max(-low, high)

"""The range of every activation by what its products lose, not by what it loses itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.product_rows import product_rows
from onnxopt.calibration.table import CalibrationTable
from onnxopt.graph.calibrated import Range, Ranges
from onnxopt.graph.products import product_of
from onnxopt.graph.quantization import Encoding, dequantize, parameters, quantize
from onnxopt.runtime.diagnosis.probing import Probe

# Ways to choose a range; percentiles by their number.
_PERCENTILES = (99.9, 99.99, 99.999)
# Directions that errors of a product are projected on: their length in these says enough.
_DIRECTIONS = 64


def ranges_by_output(
    model: ir.Model,
    table: CalibrationTable,
    data: CalibrationData,
    samples: Sequence[int],
    *,
    encoding: Encoding,
    max_memory: int,
) -> Ranges:
    """For each value the range, of those that all methods propose, that its products lose least by.

    Values that no product reads get that of least squared error.

    Args:
        model: The float model.
        table: Statistics of its values.
        data: What to run it on.
        samples: Indexes of the input sets to use.
        encoding: The integers of activations.
        max_memory: Bytes for activations, beyond the model itself.
    """
    probe = Probe(model)
    products = [p for node in probe.model.graph if (p := product_of(node)) is not None]
    proposals = dict(_proposals(table, encoding))
    errors: dict[str, NDArray[np.float64]] = {}
    for product, rows in product_rows(probe, products, data, samples, max_memory=max_memory):
        name = product.data.name or ""
        tried = [one[name] for one in proposals.values() if name in one]
        if tried:
            lost = np.array([_lost(rows, product.matrices(), ends, encoding) for ends in tried])
            errors[name] = errors.get(name, 0.0) + lost
    chosen = dict(proposals["mse"])
    for name, lost in errors.items():
        tried = [one[name] for one in proposals.values()]
        chosen[name] = tried[int(np.argmin(lost))]
    return Ranges(chosen)


def _proposals(
    table: CalibrationTable, encoding: Encoding
) -> Iterator[tuple[str, Mapping[str, Range]]]:
    for method in ("min-max", "mse", "entropy"):
        yield method, table.ranges(method, encoding)
    for percentile in _PERCENTILES:
        found = table.ranges("percentile", encoding, percentile=percentile)
        yield f"percentile {percentile}", found


def _lost(
    rows: NDArray[np.float32], matrices: NDArray[np.float32], ends: Range, encoding: Encoding
) -> float:
    """Squared error of a product whose activations are quantized in a range."""
    params = parameters(*ends, encoding)
    error = dequantize(quantize(rows, params), params) - rows
    outputs = matrices.shape[2]
    if outputs > _DIRECTIONS:
        directions = np.random.default_rng(0).standard_normal((outputs, _DIRECTIONS))
        matrices = matrices @ (directions / np.sqrt(_DIRECTIONS)).astype(np.float32)
    return float(np.square(error @ matrices).sum(dtype=np.float64))

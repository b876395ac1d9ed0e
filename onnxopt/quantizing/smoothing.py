"""How much of an activation's size should move into the weights that read it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.product_rows import product_rows
from onnxopt.graph.calibrated import ChannelScales
from onnxopt.graph.channel_links import ChannelLink, find_links
from onnxopt.graph.products import Product
from onnxopt.graph.quantization import Encoding, dequantize, parameters, quantize
from onnxopt.passes.quantization.tensors import weight_parameters
from onnxopt.runtime.diagnosis.probing import Probe

# Thresholds on the way from the median channel (0) to the largest (1), geometrically.
_STEPS = (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
# A gain as small as this is not worth a change.
_LEAST_GAIN = 0.97
# Of the squared error; less does not pay for another node.
_LEAST_GAIN_OF_MUL = 0.6
# As many rows and columns of a product tell exponents apart.
_ROWS, _COLUMNS = 256, 256


def search_scales(
    model: ir.Model,
    data: CalibrationData,
    samples: Sequence[int],
    *,
    activations: Encoding,
    weights: Encoding,
    per_channel: bool,
    max_memory: int,
    insert: bool = False,
    end: float = math.inf,
) -> ChannelScales:
    """Scales for values of the main graph, where they make the products that read them better.

        s = max(1, max|x| / t)        by channel

    with the threshold t of least error of these products, activations and weights both quantized.
    Channels under t keep their size: SmoothQuant's own formula makes all alike, also those that
    happened to be small on the calibration data, which are clipped when they are not.

    Args:
        model: The float model.
        data: What to run it on.
        samples: Indexes of the input sets to use.
        activations: The integers of activations.
        weights: The integers of weights, symmetric.
        per_channel: A scale for each output channel of a weight.
        max_memory: Bytes for activations, beyond the model itself.
        insert: For values that need a Mul for it instead, if they gain much.
        end: When to stop, as `time.perf_counter` counts; the values left keep their size.
    """
    probe = Probe(model)
    links = find_links(probe.model.graph, insert=insert)[0]
    links = [link for link in links if insert != bool(link.dividends)]
    of = {product.node: link for link in links for product in link.consumers}
    products = [product for link in links for product in link.consumers]
    searches: dict[ir.Value, _Search] = {}
    found: dict[str, NDArray[np.float32]] = {}
    for product, rows in product_rows(probe, products, data, samples, max_memory=max_memory):
        if time.perf_counter() > end:
            break
        link = of[product.node]
        search = searches.setdefault(link.value, _Search(link, activations, weights, per_channel))
        search.add(product, rows)
        if search.is_complete:
            scales = searches.pop(link.value).best()
            if scales is not None:
                found[link.value.name or ""] = scales
    return ChannelScales(found)


class _Search:
    """The search for one value."""

    def __init__(
        self, link: ChannelLink, activations: Encoding, weights: Encoding, per_channel: bool
    ) -> None:
        self._link = link
        self._activations, self._weights, self._per_channel = activations, weights, per_channel
        self._seen: list[tuple[Product, NDArray[np.float32]]] = []
        self._strength = np.zeros(link.channels)

    def add(self, product: Product, rows: NDArray[np.float32]) -> None:
        """Takes in what one of the link's products reads, [groups, rows, K]."""
        by_row = np.abs(rows).max(axis=1).reshape(self._link.channels, -1)
        self._strength = np.maximum(self._strength, by_row.max(axis=1))
        self._seen.append((product, rows[:, :: -(-rows.shape[1] // _ROWS)]))

    @property
    def is_complete(self) -> bool:
        """True if all products have been taken in."""
        return len(self._seen) == len(self._link.consumers)

    def best(self) -> NDArray[np.float32] | None:
        """The scales of least error, or None if they gain too little."""
        strength = self._strength
        median = float(np.median(strength[strength > 0])) if strength.any() else 0.0
        gain = _LEAST_GAIN if self._link.dividends else _LEAST_GAIN_OF_MUL
        least, found = self._error(np.ones(self._link.channels, np.float32)) * gain, None
        for step in _STEPS if median > 0 else ():
            threshold = median * (float(strength.max()) / median) ** step
            scales = np.maximum(strength / threshold, 1.0).astype(np.float32)
            error = self._error(scales)
            if error < least:
                least, found = error, scales
        return found

    def _error(self, scales: NDArray[np.float32]) -> float:
        """Squared error of the products, in all, by a part of their columns."""
        total = 0.0
        for product, rows in self._seen:
            by_row = self._link.by_row(product, scales)
            matrices = product.matrices()
            step = -(-matrices.shape[2] // _COLUMNS)
            matrices = matrices[:, :, ::step]
            divided = rows / by_row[:, None]
            params = parameters(divided.min(), divided.max(), self._activations)
            divided = dequantize(quantize(divided, params), params)
            scaled = matrices * by_row[..., None]
            flat = scaled.transpose(1, 0, 2).reshape(scaled.shape[1], -1)
            of_weight = weight_parameters(flat, self._weights, 1 if self._per_channel else None)
            rounded = dequantize(quantize(flat, of_weight), of_weight)
            rounded = rounded.reshape(len(flat), len(scaled), -1).transpose(1, 0, 2)
            error = divided @ rounded - rows @ matrices
            total += float(np.square(error).sum()) * step
        return total

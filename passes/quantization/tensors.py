"""Quantized weights and biases as initializers, each stored once however many nodes read it."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.core.names import Names
from onnxopt.core.walking import all_graphs
from onnxopt.graph.calibrated import NO_ROUNDINGS, Roundings
from onnxopt.graph.quantization import (
    Encoding,
    QuantizationParameters,
    parameters,
    quantize,
    quantize_bias,
    ranges_of,
    smallest_bias_scale,
)
from onnxopt.graph.values import constant
from onnxopt.passes.quantization.saturation import smallest_unsaturated_scale


class QuantizedTensors:
    """Makes initializers of quantized constants.

    Args:
        names: Names of the model that they are for.
        roundings: Integers of weights that are not those nearest to them.
    """

    def __init__(self, names: Names, roundings: Roundings = NO_ROUNDINGS) -> None:
        self._names, self._roundings = names, roundings
        self._known: dict[tuple[object, ...], ir.Value] = {}
        self._weights: dict[tuple[object, ...], tuple[ir.Value, QuantizationParameters]] = {}

    def store(self, graph: ir.Graph, array: NDArray[np.generic], name: str) -> ir.Value:
        """An initializer; small equal ones are shared."""
        key = (graph, array.dtype.str, array.shape, array.tobytes()) if array.size < 65536 else None
        if key is not None and key in self._known:
            return self._known[key]
        unique = self._names.unique(name)
        value = ir.Value(
            name=unique,
            const_value=ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique),
        )
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        graph.register_initializer(value)
        if key is not None:
            self._known[key] = value
        return value

    def weight(
        self,
        graph: ir.Graph,
        weight: ir.Value,
        encoding: Encoding,
        axis: int | None,
        smallest_scale: NDArray[np.float64] | None = None,
        *,
        transposed: bool = False,
    ) -> tuple[ir.Value, QuantizationParameters]:
        """A quantized weight and its scale and zero point.

        Args:
            graph: Where it is needed.
            weight: The float32 constant.
            encoding: The integers.
            axis: Of the channels; None for one scale.
            smallest_scale: By channel; needed where an int32 bias would overflow.
            transposed: Store the transposed matrix; `axis` counts in that one.
        """
        floor = None if smallest_scale is None else smallest_scale.tobytes()
        key = (graph, weight, encoding, axis, floor, transposed)
        if key not in self._weights:
            found = self._roundings.get(weight.name or "")
            found = found.transposed if found is not None and transposed else found
            array = constant(weight)
            assert array is not None
            array = array.T if transposed else array
            if found is not None and found.fits(array.shape, encoding.dtype, axis, smallest_scale):
                integers, params = found.integers, found.params
            else:
                params = weight_parameters(array, encoding, axis, smallest_scale)
                integers = quantize(array, params)
            stored = self.store(graph, integers, f"{weight.name}_quantized")
            self._weights[key] = stored, params
        return self._weights[key]

    def directions(
        self,
        graph: ir.Graph,
        array: NDArray[np.float32],
        name: str,
        encoding: Encoding,
        *,
        per_channel: bool,
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """A recurrent weight [directions, inputs, outputs]: integers, scales and zero points."""
        axis = 1 if per_channel else None
        found = [weight_parameters(one, encoding, axis) for one in array]
        integers = np.stack([quantize(one, p) for one, p in zip(array, found, strict=True)])
        return (
            self.store(graph, integers, f"{name}_quantized"),
            self.store(graph, np.stack([p.scale for p in found]), f"{name}_scale"),
            self.store(graph, np.stack([p.zero_point for p in found]), f"{name}_zero_point"),
        )

    def bias(
        self, graph: ir.Graph, bias: ir.Value, scale: NDArray[np.float32], channels: int
    ) -> ir.Value:
        """An int32 bias, one number for each channel."""
        array = constant(bias)
        assert array is not None
        spread = np.broadcast_to(array.reshape(-1), (channels,))
        return self.store(graph, quantize_bias(spread, scale), f"{bias.name}_quantized")


def weight_parameters(
    array: NDArray[np.float32],
    encoding: Encoding,
    axis: int | None,
    smallest_scale: NDArray[np.float64] | None = None,
) -> QuantizationParameters:
    """Scale and zero point of a weight.

    Args:
        array: The weight.
        encoding: The integers; with a reduced range of int8 no pair of weights can saturate.
        axis: Of the channels; None for one scale.
        smallest_scale: By channel; needed where an int32 bias would overflow.
    """
    if encoding.reduce_range and encoding.type == "int8" and array.ndim > 1:
        unsaturated = smallest_unsaturated_scale(array, axis)
        smallest_scale = np.maximum(unsaturated, 0 if smallest_scale is None else smallest_scale)
        encoding = dataclasses.replace(encoding, reduce_range=False)
    params = parameters(*ranges_of(array, axis), encoding, axis=axis)
    if smallest_scale is None:
        return params
    scale = np.maximum(params.scale, smallest_scale).astype(np.float32).reshape(params.scale.shape)
    return QuantizationParameters(scale, params.zero_point, axis)


def bias_floor(
    bias: ir.Value | None, input_scale: float, channels: int, axis: int | None
) -> NDArray[np.float64] | None:
    """The smallest scale of a weight, by channel, with which the bias fits into int32."""
    array = None if bias is None else constant(bias)
    if array is None:
        return None
    floor = np.broadcast_to(smallest_bias_scale(array.reshape(-1)) / input_scale, (channels,))
    return np.asarray(floor.max()) if axis is None else floor


def drop_unused(model: ir.Model) -> None:
    """Removes the initializers that quantization left without a reader."""
    for graph in all_graphs(model):
        for name, value in list(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]

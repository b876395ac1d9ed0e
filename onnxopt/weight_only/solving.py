"""Weights quantized against data: GPTQ, AWQ, and how many bits each weight should have.

The model runs on the data for a few activations at a time; what is kept of them is their second
moments, and of a solved weight its integers, in a temporary file.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.second_moments import Moments, second_moments
from onnxopt.core.names import Names
from onnxopt.core.temporary import kept_aside
from onnxopt.graph.awq import output_error, search_scales
from onnxopt.graph.block_weights import BlockWeights, quantize_weight
from onnxopt.graph.blocks import BlockEncoding
from onnxopt.graph.gptq import solve_gptq
from onnxopt.passes.quantization.input_scales import find_absorber
from onnxopt.passes.quantization.weight_sites import WeightSite

Compute = Callable[[], BlockWeights]
Encodings = Mapping[WeightSite, BlockEncoding]
Progress = Callable[[int, int], None]


class Spooled:
    """Integers of solved weights in files that go away with the object."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxopt-")
        self._count = 0

    def keep(self, weights: BlockWeights) -> Compute:
        """Writes a weight; the function that is returned reads it."""
        path = Path(self._folder.name, f"{self._count}.npz")
        self._count += 1
        with kept_aside(path.parent):
            np.savez(path, integers=weights.integers, scales=weights.scales, zeros=weights.zeros)
        empty = np.empty(0, np.uint8)
        rest = dataclasses.replace(
            weights, integers=empty, scales=np.empty(0, np.float32), zeros=empty
        )

        def read() -> BlockWeights:
            assert self._folder  # which lives as long as somebody may read
            with np.load(path) as arrays:
                return dataclasses.replace(rest, **arrays)

        return read


def inputs_of(encodings: Encodings) -> dict[ir.Value, list[WeightSite]]:
    """The values that weights are multiplied with, each with its weights.

    Left out are weights that several values are multiplied with, and tables.
    """
    found: dict[ir.Value, list[WeightSite]] = {}
    for site in encodings:
        values = {user.inputs[0] for user in site.users}
        if site.kind == "product" and len(values) == 1:
            (value,) = values
            if value is not None:
                found.setdefault(value, []).append(site)
    return found


class Solver:
    """Solves weights one input at a time.

    Args:
        model: The float model, which AWQ changes.
        encodings: What to quantize, and how.
        data: What to run on.
        max_memory: Bytes for activations and their moments.
        progress: Told the number of runs done and the number of all.
    """

    def __init__(
        self,
        model: ir.Model,
        encodings: Encodings,
        data: CalibrationData,
        *,
        max_memory: int,
        progress: Progress | None = None,
    ) -> None:
        self._model = model
        self._encodings = encodings
        self._data = data
        self._memory = max_memory
        self._progress = progress
        self._groups = {
            value.name or "": (value, sites)
            for value, sites in inputs_of(encodings).items()
            if value.graph is model.graph
        }

    @property
    def idle(self) -> bool:
        """True if there is nothing to observe: weights are tables, or used inside subgraphs."""
        return not self._groups

    def _moments(self) -> Iterator[tuple[str, Moments]]:
        if self.idle:
            return iter(())
        widths = {name: sites[0].length for name, (_, sites) in self._groups.items()}
        return second_moments(
            self._model, widths, self._data, max_memory=self._memory, progress=self._progress
        )

    def gptq(self, *, act_order: bool) -> dict[WeightSite, Compute]:
        """Solves every weight whose input was observed; the others are missing."""
        spool, solved = Spooled(), {}
        for name, moments in self._moments():
            for site in self._groups[name][1]:
                encoding = dataclasses.replace(self._encodings[site], method="mse")
                weights = solve_gptq(
                    site.tensor.numpy(), site.axis, moments.mean, encoding, act_order=act_order
                )
                solved[site] = spool.keep(weights)
        return solved

    def awq(self) -> dict[WeightSite, Compute]:
        """Scales inputs where that is free, and weighs errors by activations everywhere."""
        names = Names(self._model)
        by_value: dict[ir.Value, list[WeightSite]] = {}
        for site in self._encodings:
            by_value.setdefault(site.value, []).append(site)
        rows: dict[WeightSite, NDArray[Any]] = {}
        columns: dict[WeightSite, NDArray[Any]] = {}
        importance: dict[WeightSite, NDArray[Any]] = {}
        for name, moments in self._moments():
            value, sites = self._groups[name]
            readers = {user for site in sites for user in site.users}
            absorber = find_absorber(value, readers, by_value)
            scales = np.ones(sites[0].length, np.float32)
            if absorber is not None:
                weights = [(_columns(site), self._weighing(site)) for site in sites]
                scales = search_scales(weights, moments.mean)
                absorber.absorb(scales, names)
                if absorber.upstream is not None:
                    columns[absorber.upstream] = 1 / scales
            diagonal = np.diagonal(moments.mean)
            for site in sites:
                rows[site] = scales
                importance[site] = diagonal / max(float(diagonal.mean()), 1e-30) + 0.01
        return {
            site: self._scaled(site, rows[site], columns.get(site), importance[site])
            for site in rows
        }

    def _weighing(self, site: WeightSite) -> BlockEncoding:
        return dataclasses.replace(self._encodings[site], method="mse")

    def _scaled(
        self,
        site: WeightSite,
        scales: NDArray[Any],
        columns: NDArray[Any] | None,
        importance: NDArray[Any],
    ) -> Compute:
        encoding = self._weighing(site)

        def compute() -> BlockWeights:
            along = scales[:, None] if site.axis == 0 else scales[None]
            tensor = site.tensor
            if not (scales == 1).all():
                array = np.asarray(tensor.numpy(), np.float32) * along
                tensor = ir.Tensor(array.astype(tensor.dtype.numpy()), name=tensor.name)
            weights = quantize_weight(
                tensor, encoding, site.axis, importance=importance / np.square(scales)
            )
            if columns is not None:
                weights.scales *= columns if site.axis == 0 else columns[:, None]
            return weights

        return compute

    def sensitivities(self, choices: tuple[int, ...]) -> dict[WeightSite, dict[int, float]]:
        """Relative error of each product, by the bits that its weight is rounded to."""
        found: dict[WeightSite, dict[int, float]] = {}
        for name, moments in self._moments():
            for site in self._groups[name][1]:
                weight = np.asarray(_columns(site), np.float32)
                power = output_error(weight, np.zeros_like(weight), moments.mean)
                found[site] = {}
                for bits in choices:
                    encoding = dataclasses.replace(self._encodings[site], bits=bits)
                    rounded = quantize_weight(ir.Tensor(weight), encoding, 0).values()
                    error = output_error(weight, rounded, moments.mean)
                    found[site][bits] = error / power if power else 0.0
        return found


def _columns(site: WeightSite) -> NDArray[Any]:
    """The weight as [K, N]."""
    array: NDArray[Any] = site.tensor.numpy()
    return array if site.axis == 0 else array.T

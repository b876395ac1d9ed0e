"""Accuracy repair: ways to lose less, each tried on its own and undone where it does not help.

`equalize`: channels between two layers are made alike in size (pass equalize-layers). `smooth`: the
size of activation channels moves into the weights (pass smooth-activations); `insert` does so where
a Mul in front of a product is the only way. `ranges`: every activation gets the range that the
products which read it lose least by. `rounding`: every weight gets the integers that its product
loses least by.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxopt.calibration.collecting import DEFAULT_MEMORY, collect
from onnxopt.calibration.data import CalibrationData
from onnxopt.calibration.table import CalibrationTable
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization import EqualizeLayers, SmoothActivations
from onnxopt.quantizing.forms import Basis, Form, observed_names
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.output_ranges import ranges_by_output
from onnxopt.quantizing.rounding import solve_roundings
from onnxopt.quantizing.smoothing import search_scales

# Each may hold scaled copies of the weights; a form uses one for every repair at most.
_KEPT = 6


class Bases:
    """Float models with their statistics, by the repairs that were done to them.

    Args:
        model: The prepared float model, which is left as it is.
        options: What the user asks for.
        table: Statistics of its values.
        data: What it was calibrated on.
        samples: Indexes of the input sets for calibration.
        max_memory: Bytes for activations, beyond the model itself.

    Attributes:
        end: When a repair that is not done has to stop, as `time.perf_counter` counts.
    """

    def __init__(
        self,
        model: ir.Model,
        options: QuantizeOptions,
        table: CalibrationTable | None,
        data: CalibrationData,
        samples: Sequence[int],
        max_memory: int = DEFAULT_MEMORY,
    ) -> None:
        self._model, self._options, self._table = model, options, table
        self._data, self._samples, self._memory = data, samples, max_memory
        self._of = functools.lru_cache(_KEPT)(self._build)
        self.end = math.inf

    @property
    def possible(self) -> bool:
        """True if there is data to repair with."""
        return self._table is not None and not self._data.synthesized

    def of(self, form: Form) -> Basis | None:
        """What a form is built from; None if its last repair changes nothing."""
        return self._of(form.repairs, form.unsigned)

    def _build(self, repairs: tuple[str, ...], unsigned: bool) -> Basis | None:
        if not repairs:
            return Basis(self._model, self._table)
        before, repair = self._of(repairs[:-1], unsigned), repairs[-1]
        if before is None or before.table is None:
            return None
        if repair in ("equalize", "smooth", "insert"):
            return self._scaled(before, repair, unsigned)
        if repair == "ranges":
            ranges = ranges_by_output(
                before.model,
                before.table,
                self._data,
                self._samples,
                encoding=self._activations,
                max_memory=self._memory,
            )
            return dataclasses.replace(before, ranges=ranges)
        roundings = solve_roundings(
            before.model,
            self._data,
            self._samples,
            encoding=self._weights(unsigned),
            per_channel=self._options.per_channel,
            max_memory=self._memory,
            end=self.end,
        )
        return dataclasses.replace(before, roundings=roundings) if roundings else None

    def _scaled(self, before: Basis, repair: str, unsigned: bool) -> Basis | None:
        model = before.model.clone()
        if repair == "equalize":
            result = EqualizeLayers()(model)
        else:
            scales = search_scales(
                before.model,
                self._data,
                self._samples,
                activations=self._activations,
                weights=self._weights(unsigned),
                per_channel=self._options.per_channel,
                max_memory=self._memory,
                insert=repair == "insert",
                end=self.end,
            )
            result = SmoothActivations(scales=scales, insert=repair == "insert")(model)
        if not result.modified:
            return None
        table = collect(
            model,
            observed_names(model, products=self._options.tries_products),
            self._data,
            samples=self._samples,
            max_memory=self._memory,
        )
        return Basis(model, table)

    @property
    def _activations(self) -> Encoding:
        return Encoding(self._options.activations, self._options.is_symmetric)

    def _weights(self, unsigned: bool) -> Encoding:
        saturates = self._options.saturates and not unsigned
        return Encoding("uint8" if unsigned else "int8", True, saturates)

"""Whether an exported model computes what PyTorch computes, at every shape that it declares."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxopt.core.walking import all_bodies
from onnxopt.export.parts import Part, Shape
from onnxopt.export.references import OwnNoise, Reference, own_noise, worst
from onnxopt.runtime.integer_layers import IntegerLayers, read_integer_layers
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.profiling import profile_model
from onnxopt.runtime.parity.difference import Difference
from onnxopt.runtime.parity.tolerance import QUANTIZED_FLOOR, Tolerance, above_noise, floor
from onnxopt.runtime.session import ModelSource, Optimization, Session, open_session

# ONNX Runtime's optimizations copy weights: folded transposes, packed layouts.
LARGE_BYTES = 1 << 30


class Checker:
    """Holds exported models of one part against PyTorch.

    Args:
        part: The part, with the symbolic shapes of its outputs.
        runs: What PyTorch computed.
        weight_bytes: Bytes of its weights; large ones are not copied.
    """

    def __init__(self, part: Part, runs: Sequence[Reference], weight_bytes: int) -> None:
        self.part, self.runs = part, runs
        self.large = weight_bytes > LARGE_BYTES
        self._noise: OwnNoise | None = None

    def forget_module(self) -> None:
        """Lets go of the PyTorch module; the noise of its outputs is measured before."""
        self._measure_noise()
        self.part = dataclasses.replace(self.part, module=None, program=None)

    def complaint(self, model: ir.Model) -> str:
        """What is wrong with the interface of a model; empty if nothing is."""
        inputs = {value.name: value for value in model.graph.inputs}
        wanted = {one.name: one for one in self.part.inputs}
        for name in inputs.keys() - wanted.keys():
            return f"it has an input {name!r} that the other exporters do not have"
        if lost := wanted.keys() - inputs.keys():
            return f"it does not have the input {min(lost)!r}"
        if lost := set(self.part.outputs) - {value.name for value in model.graph.outputs}:
            return f"it does not have the output {min(lost)!r}"
        for name, value in inputs.items():
            assert name is not None
            shape = value.shape
            if shape is None or len(shape) != len(wanted[name].shape):
                return f"its input {name!r} has the wrong rank"
            for axis, dim in enumerate(wanted[name].shape):
                if isinstance(dim, str) and isinstance(shape[axis], int):
                    return f"axis {axis} ({dim}) of its input {name!r} is fixed to {shape[axis]}"
        return ""

    def check(self, source: ModelSource) -> tuple[str, dict[str, Any]]:
        """Runs a model on everything that PyTorch ran.

        Returns:
            Why it is not at parity, empty if it is; figures of each output.
        """
        try:
            session = self.open(source)
        except CannotRunError as error:
            return f"ONNX Runtime does not load it: {error.reason}", {}
        results = []
        for run in self.runs:
            try:
                results.append(session.run(run.feeds))
            except CannotRunError as error:
                return f"it does not run at {run.case}: {error.reason[:160]}", {}
        differences = worst(self.runs, results)
        complaints, figures = self._judge(differences, None)
        if complaints:
            complaints, figures = self._judge(differences, self._measure_noise())
        return next(iter(complaints), ""), figures

    def integer_layers(self, source: ModelSource) -> IntegerLayers:
        """Which layers of a quantized model ONNX Runtime runs on integers."""
        profile = profile_model(
            lambda prefix: open_session(source, profile_prefix=prefix),
            self.runs[0].feeds,
            seconds=0,
        )
        return read_integer_layers(profile)

    def open(self, source: ModelSource) -> Session:
        """Opens a model; a large one without copies of its weights."""
        optimization: Optimization = "disabled" if self.large else "all"
        small = not self.large
        return open_session(source, optimization=optimization, prepacking=small, arena=small)

    def _measure_noise(self) -> OwnNoise:
        if self._noise is None:
            self._noise = own_noise(self.part, self.runs)
        return self._noise

    def _judge(
        self, differences: Mapping[str, Difference], noise: OwnNoise | None
    ) -> tuple[list[str], dict[str, Any]]:
        complaints, figures = [], {}
        for name, difference in differences.items():
            tolerance: Tolerance = floor(None)
            if noise is not None:
                base = QUANTIZED_FLOOR if noise.quantized else tolerance
                tolerance = above_noise(base, noise.differences[name])
            complaint = tolerance.complaint(difference)
            if complaint:
                complaints.append(f"{name}: {complaint}")
            figures[name] = {
                "relative_error": difference.relative,
                "rms_error": difference.rms,
                "cosine": difference.cosine,
                "tolerance": tolerance.relative,
                "own_noise": None if noise is None else noise.differences[name].relative,
            }
        return complaints, figures


def name_axes(model: ir.Model, part: Part) -> None:
    """Gives inputs and outputs their symbolic shapes, and renames the symbols everywhere.

    Args:
        model: A model of the part.
        part: The part.
    """
    wanted: dict[str, Shape] = {one.name: one.shape for one in part.inputs} | dict(part.axes)
    values = [*model.graph.inputs, *model.graph.outputs]
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for dim, new in zip(value.shape or (), wanted.get(str(value.name), ()), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value and isinstance(new, str):
                names.setdefault(str(dim.value), new)
    for value in _values(model):
        if value.shape is not None and any(not isinstance(dim, int) for dim in value.shape):
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])
    for value in values:
        if value.name in wanted:
            value.shape = ir.Shape(wanted[value.name])


def _values(model: ir.Model) -> list[ir.Value]:
    found = list(model.graph.inputs)
    for body in all_bodies(model):
        for node in body:
            found += node.outputs
    return found


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | ir.SymbolicDim | str:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m.group(), m.group()), str(dim.value))

"""From a torch module to an ONNX file, by either of torch's two exporters."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec import Input, example_inputs

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int | str, ...]]


@dataclasses.dataclass(frozen=True)
class Exporter:
    """One of torch's exporters, with the opset that it is asked for.

    Attributes:
        suffix: Ends the names of the models it made.
        opset: The version of the default operator domain.
        options: What `torch.onnx.export` is given beside the model and its names.
        symbolic_shapes: The keyword under which it takes dynamic dimensions, and their value.
    """

    suffix: str
    opset: int
    options: Mapping[str, Any]
    symbolic_shapes: Callable[[nn.Module, Mapping[str, Input], Shapes], Mapping[str, Any]]

    def export(
        self, module: nn.Module, inputs: Mapping[str, Input], outputs: Shapes, path: Path
    ) -> None:
        """Exports a module that takes its inputs by position and returns a tensor or a tuple.

        Args:
            module: In evaluation mode.
            inputs: The graph inputs, in the order of the module's arguments.
            outputs: Name -> symbolic shape, in the order of the module's results.
            path: The file to write.
        """
        import torch

        arrays = example_inputs(inputs)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # tracer and deprecation notes of the exporters
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(arrays[name]) for name in inputs),
                path,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=self.opset,
                **self.options,
                **self.symbolic_shapes(module, inputs, outputs),
            )


def _symbols(shape: tuple[int | str, ...]) -> dict[int, str]:
    """Axis -> name of the symbolic dimensions of a shape."""
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


def _dynamic_axes(
    module: nn.Module, inputs: Mapping[str, Input], outputs: Shapes
) -> Mapping[str, Any]:
    shapes = {name: entry.shape for name, entry in inputs.items()} | dict(outputs)
    return {"dynamic_axes": {name: _symbols(shape) for name, shape in shapes.items()}}


def _dynamic_shapes(
    module: nn.Module, inputs: Mapping[str, Input], outputs: Shapes
) -> Mapping[str, Any]:
    # One entry for each parameter of `forward`; those that `*tensors` takes make one tuple.
    symbols = [_symbols(entry.shape) for entry in inputs.values()]
    bound = inspect.signature(module.forward).bind(*symbols)
    return {"dynamic_shapes": tuple(bound.arguments.values())}


TORCHSCRIPT = Exporter("ts", 17, {"dynamo": False}, _dynamic_axes)
DYNAMO = Exporter(
    "dynamo",
    18,
    {"dynamo": True, "optimize": False, "external_data": False, "verbose": False},
    _dynamic_shapes,
)
EXPORTERS = (TORCHSCRIPT, DYNAMO)

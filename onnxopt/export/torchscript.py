"""torch.onnx over TorchScript: the graph is traced at one shape."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any, ClassVar

import onnx
import onnx_ir as ir

from onnxopt.export.exporters import ExportFailedError, Job, few_lines
from onnxopt.export.parts import Part
from onnxopt.export.weights import bind_weights, tie_weights, transpose_weights
from onnxopt.runtime.inputs.user_functions import user_code

_NEWEST_OPSET = 20
# What shape inference may compute with; larger constants say nothing about shapes.
_MOST_BYTES = 1 << 16


class TorchScriptExporter:
    """`torch.onnx.export(dynamo=False)`."""

    name: ClassVar[str] = "torchscript"

    def refusal(self, job: Job, part: Part) -> str:
        """It traces modules, and knows opsets up to 20."""
        if part.program is not None:
            return "a torch.export program cannot be traced again"
        if job.opset > _NEWEST_OPSET:
            return f"it writes opset {_NEWEST_OPSET} at most"
        return ""

    def export(self, job: Job, part: Part) -> ir.Model:
        """Traces the module without its weights, and binds them by their names."""
        import torch

        axes = {one.name: one.shape for one in part.inputs} | dict(part.axes)
        file = io.BytesIO()
        failing = user_code(wrap=lambda error: ExportFailedError(few_lines(error)))
        with failing, torch.no_grad(), _shapes_without_weights():
            torch.onnx.export(
                part.module,
                tuple(part.make(part.cases[0]).values()),
                file,
                dynamo=False,
                input_names=[one.name for one in part.inputs],
                output_names=list(part.outputs),
                opset_version=job.opset,
                # The weights stay where they are: no copy, and no limit of 2 GB.
                export_params=False,
                do_constant_folding=False,
                dynamic_axes={
                    name: {axis: d for axis, d in enumerate(shape) if isinstance(d, str)}
                    for name, shape in axes.items()
                },
            )
        model = ir.from_proto(onnx.load_from_string(file.getvalue()))
        bind_weights(model, part)
        tie_weights(model)
        transpose_weights(model)
        return model


@contextlib.contextmanager
def _shapes_without_weights() -> Iterator[None]:
    """Inside the block, PyTorch's shape inference gets no large weights.

    It computes whatever follows from weights alone, and keeps it: all of them, transposed.
    """
    from torch import _C

    name = "_jit_pass_onnx_graph_shape_type_inference"
    original = getattr(_C, name)

    def infer(graph: Any, weights: dict[str, Any], opset: int) -> None:
        # The packed weights of quantized modules are tuples.
        small = {k: w for k, w in weights.items() if getattr(w, "nbytes", 0) <= _MOST_BYTES}
        original(graph, small, opset)

    setattr(_C, name, infer)
    try:
        yield
    finally:
        setattr(_C, name, original)

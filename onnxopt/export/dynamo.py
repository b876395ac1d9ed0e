"""torch.onnx over torch.export: the graph is captured with symbolic shapes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar

import onnx_ir as ir

from onnxopt.export.exporters import ExportFailedError, Job, few_lines
from onnxopt.export.parts import Part
from onnxopt.export.weights import tie_weights, transpose_weights
from onnxopt.runtime.inputs.user_functions import user_code

# torch.export leaves out what makes the result of fused attention contiguous, which it is already;
# once the attention is decomposed, it is not.
_STRIDES = "Cannot view a tensor"


class DynamoExporter:
    """`torch.onnx.export(dynamo=True)`."""

    name: ClassVar[str] = "dynamo"

    def refusal(self, job: Job, part: Part) -> str:
        """It applies to everything."""
        return ""

    def export(self, job: Job, part: Part) -> ir.Model:
        """Captures the module, or takes its program, and converts it."""
        try:
            model = self._convert(job, part)
        except ExportFailedError as error:
            if _STRIDES not in str(error) or not _attends_fused(job.model):
                raise
            with _eager_attention(job.model):
                model = self._convert(job, part)
        tie_weights(model)
        transpose_weights(model)
        return model

    def _convert(self, job: Job, part: Part) -> ir.Model:
        import torch

        with user_code(wrap=lambda error: ExportFailedError(few_lines(_root(error)))):
            program = part.program if part.program is not None else _capture(part)
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[one.name for one in part.inputs],
                output_names=list(part.outputs),
                opset_version=job.opset,
                # Ours is to rewrite, and folding would copy weights.
                optimize=False,
                verbose=False,
                custom_translation_table=_translations(),
            )
        assert converted is not None
        model: ir.Model = converted.model
        return model


def _capture(part: Part) -> Any:
    import torch

    dims = [
        {
            axis: torch.export.Dim.DYNAMIC
            for axis, dim in enumerate(one.shape)
            if isinstance(dim, str)
        }
        for one in part.inputs
    ]
    # One entry for each parameter of `forward`; those that `*tensors` takes make one tuple.
    bound = inspect.signature(part.module.forward).bind(*dims)
    with torch.no_grad():
        return torch.export.export(
            part.module,
            tuple(part.make(part.cases[0]).values()),
            dynamic_shapes=tuple(bound.arguments.values()),
            strict=False,
        )


def _attends_fused(model: Any) -> bool:
    """True for a transformers model whose attention is PyTorch's fused one."""
    config = getattr(model, "config", None)
    return getattr(config, "_attn_implementation", "") == "sdpa"


@contextlib.contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """Attention as separate operators, inside the block."""
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def _translations() -> dict[Any, Any]:
    """Operators that PyTorch's own table lacks: integer products of torchao's linear layers."""
    import torch
    from onnxscript import opset18

    def int_mm(first: Any, second: Any) -> Any:
        return opset18.MatMulInteger(first, second)

    return {torch.ops.aten._int_mm.default: int_mm}


def _root(error: BaseException) -> BaseException:
    """The error that the exporter wrapped into its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error

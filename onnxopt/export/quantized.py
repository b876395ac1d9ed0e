"""Quantized models, written as the integer kernels of ONNX Runtime read them."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.pipeline import Pipeline
from onnxopt.passes.quantization import UseSignedWeights
from onnxopt.presets import quantized
from onnxopt.runtime.parity.tolerance import is_quantized
from onnxopt.targets import detect_target


def fit_integer_kernels(model: ir.Model) -> list[str] | None:
    """Rewrites a model that computes on integers; others are left alone.

    PyTorch's quantizers fix the numbers, not the form: float biases, int8 activations or a
    ReduceMean keep ONNX Runtime from its integer kernels. And those of CPUs without VNNI saturate
    where PyTorch does not, so here this is part of being right.

    Returns:
        What the user should know; None for other models.
    """
    if not is_quantized(model):
        return None
    records = Pipeline(quantized(detect_target())).call(model).records
    moved = sum(
        record.rewrites.get("to-uint8", 0)
        for record in records
        if record.name == UseSignedWeights.name
    )
    if not moved:
        return []
    return [
        f"weights of {moved} layers are stored as uint8: as int8 they could saturate the 8-bit "
        "kernels of this CPU, which has no VNNI; int8 weights of 7 bits are faster here"
    ]

"""Integer quantization: where integers are computed with, and weights in few bits."""

from __future__ import annotations

from onnxopt.passes.quantization.bias import CorrectBias
from onnxopt.passes.quantization.dynamic import QuantizeDynamic
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.passes.quantization.weight_only import QuantizeWeights

__all__ = ["CorrectBias", "InsertQdq", "QuantizeDynamic", "QuantizeWeights"]

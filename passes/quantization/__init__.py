"""Integer quantization: where QuantizeLinear and DequantizeLinear go, and weights in few bits."""

from __future__ import annotations

from onnxopt.passes.quantization.weight_only import QuantizeWeights

__all__ = ["QuantizeWeights"]

"""`quantize_weights`: 4- and 8-bit weights, activations in float."""

from __future__ import annotations

from onnxopt.weight_only.report import WeightRecord, WeightReport
from onnxopt.weight_only.running import WeightResult, quantize_weights

__all__ = ["WeightRecord", "WeightReport", "WeightResult", "quantize_weights"]

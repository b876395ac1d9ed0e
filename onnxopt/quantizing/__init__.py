"""`quantize`: the fastest 8-bit form of a model that is within the budget, or the float model."""

from __future__ import annotations

from onnxopt.quantizing.report import QuantizationReport
from onnxopt.quantizing.running import QuantizeResult, quantize

__all__ = ["QuantizationReport", "QuantizeResult", "quantize"]

"""Floating-point numbers of fewer bits."""

from __future__ import annotations

from onnxopt.passes.precision.float32 import ConvertToFloat32
from onnxopt.passes.precision.half import ConvertToHalf

__all__ = ["ConvertToFloat32", "ConvertToHalf"]

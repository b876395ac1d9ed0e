"""Floating-point numbers of fewer bits."""

from __future__ import annotations

from onnxopt.passes.precision.half import ConvertToHalf

__all__ = ["ConvertToHalf"]

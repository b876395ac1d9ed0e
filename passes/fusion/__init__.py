"""Fusions into standard ONNX operators, valid on every runtime."""

from __future__ import annotations

from onnxopt.passes.fusion.clips import MergeClips
from onnxopt.passes.fusion.conv_arithmetic import FuseConvArithmetic
from onnxopt.passes.fusion.conv_batch_norm import FuseConvBatchNorm
from onnxopt.passes.fusion.pads import FusePads

__all__ = [
    "FuseConvArithmetic",
    "FuseConvBatchNorm",
    "FusePads",
    "MergeClips",
]

"""Fusions into standard ONNX operators and, for attention, into those of ONNX Runtime."""

from __future__ import annotations

from onnxopt.passes.fusion.attention import FoldQueryGroups, FuseAttention, FuseRotaryEmbedding
from onnxopt.passes.fusion.clips import MergeClips
from onnxopt.passes.fusion.conv_arithmetic import FuseConvArithmetic
from onnxopt.passes.fusion.conv_batch_norm import FuseConvBatchNorm
from onnxopt.passes.fusion.gelu import FuseGelu
from onnxopt.passes.fusion.gemm import FuseMatMulAdd
from onnxopt.passes.fusion.hard_activations import FuseHardActivations
from onnxopt.passes.fusion.layer_norm import FuseLayerNorm
from onnxopt.passes.fusion.pads import FusePads
from onnxopt.passes.fusion.residuals import SumResiduals
from onnxopt.passes.fusion.rms_norm import FuseRMSNorm
from onnxopt.passes.fusion.scales import FuseScales

__all__ = [
    "FoldQueryGroups",
    "FuseAttention",
    "FuseConvArithmetic",
    "FuseConvBatchNorm",
    "FuseGelu",
    "FuseHardActivations",
    "FuseLayerNorm",
    "FuseMatMulAdd",
    "FusePads",
    "FuseRMSNorm",
    "FuseRotaryEmbedding",
    "FuseScales",
    "MergeClips",
    "SumResiduals",
]

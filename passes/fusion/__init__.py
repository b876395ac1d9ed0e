"""Fusions into standard ONNX operators and into those of ONNX Runtime."""

from __future__ import annotations

from onnxopt.passes.fusion.attention import FoldQueryGroups, FuseAttention, FuseRotaryEmbedding
from onnxopt.passes.fusion.bias_gelu import FuseBiasGelu
from onnxopt.passes.fusion.clips import MergeClips
from onnxopt.passes.fusion.conv_arithmetic import FuseConvArithmetic
from onnxopt.passes.fusion.conv_batch_norm import FuseConvBatchNorm
from onnxopt.passes.fusion.embeddings import FuseEmbeddings
from onnxopt.passes.fusion.gelu import FuseGelu
from onnxopt.passes.fusion.gemm import FuseMatMulAdd
from onnxopt.passes.fusion.hard_activations import FuseHardActivations
from onnxopt.passes.fusion.layer_norm import FuseLayerNorm
from onnxopt.passes.fusion.packed_projections import PackProjections
from onnxopt.passes.fusion.pads import FusePads
from onnxopt.passes.fusion.quick_gelu import FuseQuickGelu
from onnxopt.passes.fusion.residuals import SumResiduals
from onnxopt.passes.fusion.rms_norm import FuseRMSNorm
from onnxopt.passes.fusion.scales import FuseScales
from onnxopt.passes.fusion.skip_normalization import FuseSkipNormalization

__all__ = [
    "FoldQueryGroups",
    "FuseAttention",
    "FuseBiasGelu",
    "FuseConvArithmetic",
    "FuseConvBatchNorm",
    "FuseEmbeddings",
    "FuseGelu",
    "FuseHardActivations",
    "FuseLayerNorm",
    "FuseMatMulAdd",
    "FusePads",
    "FuseQuickGelu",
    "FuseRMSNorm",
    "FuseRotaryEmbedding",
    "FuseScales",
    "FuseSkipNormalization",
    "MergeClips",
    "PackProjections",
    "SumResiduals",
]

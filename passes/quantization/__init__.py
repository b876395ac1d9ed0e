"""Integer quantization: where integers are computed with, and weights in few bits."""

from __future__ import annotations

from onnxopt.passes.quantization.bias import CorrectBias
from onnxopt.passes.quantization.clusters import ClusterWeights
from onnxopt.passes.quantization.dynamic import QuantizeDynamic
from onnxopt.passes.quantization.equalization import EqualizeLayers
from onnxopt.passes.quantization.int32_biases import QuantizeBiases
from onnxopt.passes.quantization.mean_pools import PoolQuantizedMeans
from onnxopt.passes.quantization.qdq import InsertQdq
from onnxopt.passes.quantization.signed_weights import UseSignedWeights
from onnxopt.passes.quantization.smoothing import SmoothActivations
from onnxopt.passes.quantization.unsigned_activations import UseUnsignedActivations
from onnxopt.passes.quantization.weight_only import QuantizeWeights

__all__ = [
    "ClusterWeights",
    "CorrectBias",
    "EqualizeLayers",
    "InsertQdq",
    "PoolQuantizedMeans",
    "QuantizeBiases",
    "QuantizeDynamic",
    "QuantizeWeights",
    "SmoothActivations",
    "UseSignedWeights",
    "UseUnsignedActivations",
]

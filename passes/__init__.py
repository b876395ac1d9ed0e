"""Every rewrite that onnxopt knows, one idea a file.

`PASSES` lists them explicitly; importing this package registers nothing and has no side effects.
`parse_passes("fold-constants{max-growth=0},remove-unused", PASSES)` builds passes from text.
"""

from __future__ import annotations

from onnxopt.core.passes import Pass
from onnxopt.passes import cleanup, fusion, precision, pruning, quantization
from onnxopt.passes.parsing import find_pass, parse_passes

PASSES: tuple[type[Pass], ...] = (
    cleanup.MergeCasts,
    cleanup.InlineConstantIf,
    cleanup.FoldConstants,
    cleanup.FlushDenormals,
    cleanup.RemoveBroadcastExpands,
    cleanup.InlineFunctions,
    cleanup.MergeGathers,
    cleanup.RemoveIdentities,
    cleanup.RemoveInitializersFromInputs,
    cleanup.DeduplicateInitializers,
    cleanup.SinkInitializers,
    cleanup.RemoveNanGuards,
    cleanup.RemoveNoOpArithmetic,
    cleanup.RemoveNoOpShapes,
    cleanup.SimplifyWithOnnxsim,
    cleanup.ConvertOpset,
    cleanup.PushTransposes,
    cleanup.MergeReshapes,
    cleanup.UnpackSequences,
    cleanup.MergeSlices,
    cleanup.EliminateCommonSubexpressions,
    cleanup.RemoveTrainingMode,
    cleanup.MergeTransposes,
    cleanup.RemoveUnused,
    fusion.FuseAttention,
    fusion.FuseBiasGelu,
    fusion.MergeClips,
    fusion.FuseConvArithmetic,
    fusion.FuseConvBatchNorm,
    fusion.FuseEmbeddings,
    fusion.FuseGelu,
    fusion.FuseMatMulAdd,
    fusion.FuseHardActivations,
    fusion.FuseLayerNorm,
    fusion.PackProjections,
    fusion.FusePads,
    fusion.FuseQuickGelu,
    fusion.SumResiduals,
    fusion.FuseRMSNorm,
    fusion.FoldQueryGroups,
    fusion.FuseRotaryEmbedding,
    fusion.FuseScales,
    fusion.FuseSkipNormalization,
    quantization.QuantizeWeights,
    quantization.ClusterWeights,
    quantization.EqualizeLayers,
    quantization.SmoothActivations,
    quantization.CorrectBias,
    quantization.QuantizeDynamic,
    quantization.InsertQdq,
    precision.ConvertToFloat32,
    quantization.PoolQuantizedMeans,
    quantization.QuantizeBiases,
    quantization.UseSignedWeights,
    quantization.UseUnsignedActivations,
    precision.ConvertToHalf,
    pruning.RemoveDeadUnits,
    pruning.PruneUnits,
    pruning.MaskWeights,
)

__all__ = ["PASSES", "find_pass", "parse_passes"]

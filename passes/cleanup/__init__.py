"""Rewrites that only tidy: the result is a smaller graph of the same operators."""

from __future__ import annotations

from onnxopt.passes.cleanup.casts import MergeCasts
from onnxopt.passes.cleanup.conditions import InlineConstantIf
from onnxopt.passes.cleanup.constants import FoldConstants
from onnxopt.passes.cleanup.denormals import FlushDenormals
from onnxopt.passes.cleanup.expands import RemoveBroadcastExpands
from onnxopt.passes.cleanup.functions import InlineFunctions
from onnxopt.passes.cleanup.gathers import MergeGathers
from onnxopt.passes.cleanup.identities import RemoveIdentities
from onnxopt.passes.cleanup.initializer_inputs import RemoveInitializersFromInputs
from onnxopt.passes.cleanup.initializers import DeduplicateInitializers
from onnxopt.passes.cleanup.loop_weights import SinkInitializers
from onnxopt.passes.cleanup.nan_guards import RemoveNanGuards
from onnxopt.passes.cleanup.no_op_arithmetic import RemoveNoOpArithmetic
from onnxopt.passes.cleanup.no_op_shapes import RemoveNoOpShapes
from onnxopt.passes.cleanup.onnxsim import SimplifyWithOnnxsim
from onnxopt.passes.cleanup.opset import ConvertOpset
from onnxopt.passes.cleanup.push_transposes import PushTransposes
from onnxopt.passes.cleanup.reshapes import MergeReshapes
from onnxopt.passes.cleanup.sequences import UnpackSequences
from onnxopt.passes.cleanup.slices import MergeSlices
from onnxopt.passes.cleanup.subexpressions import EliminateCommonSubexpressions
from onnxopt.passes.cleanup.training import RemoveTrainingMode
from onnxopt.passes.cleanup.transposes import MergeTransposes
from onnxopt.passes.cleanup.unused import RemoveUnused

__all__ = [
    "ConvertOpset",
    "DeduplicateInitializers",
    "EliminateCommonSubexpressions",
    "FlushDenormals",
    "FoldConstants",
    "InlineConstantIf",
    "InlineFunctions",
    "MergeCasts",
    "MergeGathers",
    "MergeReshapes",
    "MergeSlices",
    "MergeTransposes",
    "PushTransposes",
    "RemoveBroadcastExpands",
    "RemoveIdentities",
    "RemoveInitializersFromInputs",
    "RemoveNanGuards",
    "RemoveNoOpArithmetic",
    "RemoveNoOpShapes",
    "RemoveTrainingMode",
    "RemoveUnused",
    "SimplifyWithOnnxsim",
    "SinkInitializers",
    "UnpackSequences",
]

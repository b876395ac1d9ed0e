"""Presets: plain functions that return the passes for a goal.

The order matters in three places: functions are inlined and overridable initializers decided
before anything looks at constants; folding runs first in the group, because every rule reads the
shapes and constants that its sweep leaves on the values; equal initializers are merged before
common subexpressions, which are equal only if they read the same initializer.
"""

from __future__ import annotations

from onnxopt.core.pipeline import AnyPass, Repeat
from onnxopt.passes import cleanup as c
from onnxopt.passes import fusion as f
from onnxopt.targets import Target, as_target


def cleanup(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """Smaller graphs of standard operators, valid on every runtime; the default of `optimize`.

    Args:
        target: Where equivalent spellings of an operator run at different speeds, the one that is
            fast there is taken.
    """
    provider = as_target(target).provider
    return [
        c.InlineFunctions(),
        c.RemoveInitializersFromInputs(),
        c.RemoveUnused(),
        Repeat(
            (
                c.FoldConstants(),
                c.InlineConstantIf(),
                c.RemoveTrainingMode(),
                *_identities(),
                *_chains(),
                *_fusions(),
                c.PushTransposes(),
                c.DeduplicateInitializers(),
                c.EliminateCommonSubexpressions(),
                c.RemoveUnused(),
            )
        ),
        *((f.SumResiduals(),) if provider == "cpu" else ()),
        c.SinkInitializers(),
        c.FlushDenormals(),
    ]


def _identities() -> tuple[AnyPass, ...]:
    return (
        c.RemoveIdentities(),
        c.RemoveNoOpShapes(),
        c.RemoveBroadcastExpands(),
        c.RemoveNoOpArithmetic(),
        c.RemoveNanGuards(),
    )


def _chains() -> tuple[AnyPass, ...]:
    return (
        c.MergeTransposes(),
        c.MergeReshapes(),
        c.MergeCasts(),
        c.MergeSlices(),
        c.MergeGathers(),
    )


def _fusions() -> tuple[AnyPass, ...]:
    return (
        f.FuseConvBatchNorm(),
        f.FuseConvArithmetic(),
        f.FusePads(),
        f.MergeClips(),
        f.FuseScales(),
        f.FuseMatMulAdd(),
        f.FuseHardActivations(),
        f.FuseGelu(),
        f.FuseLayerNorm(),
        f.FuseRMSNorm(),
    )

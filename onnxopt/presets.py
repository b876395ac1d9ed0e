"""Presets: plain functions that return the passes for a goal.

The order matters in three places: functions are inlined and overridable initializers decided
before anything looks at constants; folding runs first in the group, because every rule reads the
shapes and constants that its sweep leaves on the values; equal initializers are merged before
common subexpressions, which are equal only if they read the same initializer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxopt.core.pipeline import AnyPass, Repeat
from onnxopt.kernels import Provider, paying, pays
from onnxopt.passes import cleanup as c
from onnxopt.passes import fusion as f
from onnxopt.passes import quantization as q
from onnxopt.targets import Target, as_target


def cleanup(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """Smaller graphs of standard operators, valid on every runtime.

    Args:
        target: Where equivalent spellings of an operator run at different speeds, the one that is
            fast there is taken.
    """
    aim = as_target(target)
    return [
        *_prepared(),
        _with_tidying(f.FoldQueryGroups()),
        *_finished(aim),
    ]


def fast(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """What `cleanup` does, with the fused operators of ONNX Runtime; the default of `optimize`.

    Args:
        target: A fused operator is used where it pays on this target (`onnxopt.kernels`).
    """
    aim = as_target(target)
    return [
        *_prepared(),
        _with_tidying(*_runtime_fusions(aim.provider), f.FoldQueryGroups()),
        *_finished(aim),
    ]


def quantized(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """A quantized model as PyTorch computes it, for the integer kernels of ONNX Runtime.

    Args:
        target: Where it will run; weights with which its kernels would saturate become uint8.
    """
    tidying = (c.FoldConstants(), c.RemoveIdentities(), c.PushTransposes(), c.RemoveUnused())
    kernels = _integer_kernels(as_target(target), avoid_saturation=True)
    return [Repeat(tidying), *kernels, c.RemoveUnused()]


def chosen_passes(
    passes: str | Sequence[AnyPass | Repeat] | None,
    opset: int | None,
    target: Target,
    *,
    standard: bool,
) -> list[AnyPass | Repeat]:
    """The passes that a user asks for.

    Args:
        passes: As text or as objects; None for a preset.
        opset: Raise the default domain to this version first.
        target: Where the result will run.
        standard: The preset that keeps to standard operators.
    """
    from onnxopt.passes import PASSES, parse_passes

    chosen: list[AnyPass | Repeat]
    if passes is None:
        chosen = list(cleanup(target) if standard else fast(target))
    elif isinstance(passes, str):
        chosen = list(parse_passes(passes, PASSES))
    else:
        chosen = list(passes)
    if opset is not None:
        chosen.insert(0, c.ConvertOpset(version=opset))
    return chosen


def before_pruning(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """What `fast` does but the sums of residual streams, whose parts repair looks at one by one."""
    aim = as_target(target)
    late = {type(one) for one in _finished(aim)}
    return [one for one in fast(aim) if type(one) not in late]


def after_pruning(target: Target | str = "cpu") -> list[AnyPass | Repeat]:
    """What `before_pruning` left out; removed blocks leave an Identity each."""
    return [c.RemoveIdentities(), c.RemoveUnused(), *_finished(as_target(target))]


def _runtime_fusions(provider: Provider) -> Iterator[AnyPass]:
    """Fusions into operators of ONNX Runtime that pay on the provider."""
    if pays("RotaryEmbedding", provider):
        yield f.FuseRotaryEmbedding()
    if operators := paying(provider, "GroupQueryAttention", "MultiHeadAttention"):
        yield f.FuseAttention(operators=operators)
    if operators := paying(provider, "FastGelu", "Gelu"):
        yield f.FuseGelu(operators=operators)
    if pays("BiasGelu", provider):
        yield f.FuseBiasGelu()
    if pays("QuickGelu", provider):
        yield f.FuseQuickGelu()
    if operators := paying(provider, "SimplifiedLayerNormalization"):
        yield f.FuseRMSNorm(operators=operators)
    if pays("EmbedLayerNormalization", provider):
        yield f.FuseEmbeddings()
    if operators := paying(provider, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        yield f.FuseSkipNormalization(operators=operators)


def _prepared() -> tuple[AnyPass | Repeat, ...]:
    return (
        c.InlineFunctions(),
        c.RemoveInitializersFromInputs(),
        c.RemoveUnused(),
        Repeat(
            (
                c.FoldConstants(),
                c.InlineConstantIf(),
                c.RemoveTrainingMode(),
                c.UnpackSequences(),
                *_identities(),
                *_chains(),
                *_fusions(),
                c.PushTransposes(),
                c.DeduplicateInitializers(),
                c.EliminateCommonSubexpressions(),
                c.RemoveUnused(),
            )
        ),
    )


def _with_tidying(*fusions: AnyPass) -> Repeat:
    """Fusions, and what cancels the layout changes that they leave around fused operators.

    One group, so that the guard times what comes out in the end.
    """
    return Repeat(
        (
            *fusions,
            c.FoldConstants(),
            c.RemoveNoOpShapes(),
            c.RemoveNoOpArithmetic(),
            *_chains(),
            f.FuseScales(),
            c.DeduplicateInitializers(),
            c.EliminateCommonSubexpressions(),
            c.RemoveUnused(),
        ),
        leads=len(fusions),
    )


def _finished(target: Target) -> tuple[AnyPass, ...]:
    residuals = (f.SumResiduals(),) if target.provider == "cpu" else ()
    return (*residuals, *_integer_kernels(target), c.SinkInitializers(), c.FlushDenormals())


def _integer_kernels(target: Target, *, avoid_saturation: bool = False) -> tuple[AnyPass, ...]:
    """What ONNX Runtime's integer kernels for CPUs read; TensorRT wants none of it.

    Types come first: the pools leave a Squeeze between QuantizeLinear and DequantizeLinear.

    Args:
        target: Where the model will run.
        avoid_saturation: Also rewrite weights that saturate on the target, though they are faster.
    """
    if target.provider != "cpu":
        return ()
    saturate = target.eight_bit_products_saturate
    types = (
        q.UseSignedWeights(products_saturate=saturate, avoid=avoid_saturation),
        q.UseUnsignedActivations(avoid_saturation=saturate),
    )
    return (
        *(types if target.is_x86 else ()),
        q.PoolQuantizedMeans(),
        q.QuantizeBiases(avoid_saturation=saturate),
    )


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

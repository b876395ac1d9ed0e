"""Whether a fused operator of ONNX Runtime is faster than the graph that it stands for.

Data with its source: what was measured, on what, and how to measure it again. The guard's own
measurement (`optimize --guard full`) overrules it for the model at hand.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Provider = Literal["cpu", "cuda"]


@dataclasses.dataclass(frozen=True)
class FusedKernel:
    """What is known of one fused operator on one execution provider.

    Attributes:
        operator: Its op type in the domain com.microsoft.
        provider: The execution provider.
        pays: Whether presets use it there.
        speed: Speed against the operators that it replaces, as the graph is otherwise optimized by
            ONNX Runtime; the smallest and largest of the shapes measured. None if not measured.
        source: Where the figures are from.
    """

    operator: str
    provider: Provider
    pays: bool
    speed: tuple[float, float] | None
    source: str


_MEASURED = "benchmarks/fused_kernels.py: ONNX Runtime 1.32, one thread, x86-64 with AVX2"
_DOCUMENTED = "onnxruntime, contrib_ops/cuda/bert/group_query_attention.cc: refused there"
_OPERATORS = "benchmarks/fused_operators.py: ONNX Runtime 1.32, one thread, x86-64 with AVX2"
_AT_LOAD = f"{_OPERATORS}; ONNX Runtime makes it itself at load"
_ONE_KERNEL = "not measured; one kernel, and one pass over the data, instead of several"
_UNMEASURED = "not measured; that of CUDA has flash and memory-efficient kernels for it"

KERNELS: tuple[FusedKernel, ...] = (
    FusedKernel("RotaryEmbedding", "cpu", True, (0.98, 1.09), _MEASURED),
    # It beats repeated keys, but not the products that fold-query-groups makes of them (1.13 to
    # 3.6), except for prompts of 512 tokens; and it stops at batches of several new tokens behind
    # a cache.
    FusedKernel("GroupQueryAttention", "cpu", False, (1.04, 2.35), _MEASURED),
    FusedKernel("MultiHeadAttention", "cpu", False, (0.85, 1.05), _MEASURED),
    FusedKernel("FastGelu", "cpu", True, (2.37, 2.94), _OPERATORS),
    # MiniLM as a whole is no faster for it, and it hides the tables from weight quantization.
    FusedKernel("EmbedLayerNormalization", "cpu", False, (2.09, 2.85), _OPERATORS),
    FusedKernel("SkipLayerNormalization", "cpu", False, (0.18, 0.51), _OPERATORS),
    FusedKernel("SkipSimplifiedLayerNormalization", "cpu", False, (0.44, 0.97), _OPERATORS),
    FusedKernel("Gelu", "cpu", False, (0.99, 1.0), _AT_LOAD),
    FusedKernel("BiasGelu", "cpu", False, (0.98, 1.0), _AT_LOAD),
    FusedKernel("QuickGelu", "cpu", False, (0.98, 1.0), _AT_LOAD),
    FusedKernel("SimplifiedLayerNormalization", "cpu", False, (0.98, 1.0), _AT_LOAD),
    # No pass makes these: ONNX Runtime finds them in every graph that has them.
    FusedKernel("FusedMatMul", "cpu", False, (0.97, 1.02), _AT_LOAD),
    FusedKernel("FusedGemm", "cpu", False, (0.98, 1.01), _AT_LOAD),
    FusedKernel("FusedConv", "cpu", False, (1.0, 1.0), _AT_LOAD),
    FusedKernel("RotaryEmbedding", "cuda", True, None, "not measured; one kernel instead of six"),
    # Its CUDA kernel takes no attention_bias, in which padding is, and no float32.
    FusedKernel("GroupQueryAttention", "cuda", False, None, _DOCUMENTED),
    FusedKernel("MultiHeadAttention", "cuda", True, None, _UNMEASURED),
    FusedKernel("FastGelu", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("Gelu", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("BiasGelu", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("QuickGelu", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("EmbedLayerNormalization", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("SkipLayerNormalization", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("SkipSimplifiedLayerNormalization", "cuda", True, None, _ONE_KERNEL),
    FusedKernel("SimplifiedLayerNormalization", "cuda", True, None, _ONE_KERNEL),
)


def pays(operator: str, provider: Provider) -> bool:
    """True if presets use the operator on the provider; an unknown one they do not."""
    return any(
        kernel.pays
        for kernel in KERNELS
        if (kernel.operator, kernel.provider) == (operator, provider)
    )


def paying(provider: Provider, *operators: str) -> tuple[str, ...]:
    """Those of the operators that pay on the provider, in the same order."""
    return tuple(operator for operator in operators if pays(operator, provider))

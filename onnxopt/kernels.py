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
_UNMEASURED = "not measured; that of CUDA has flash and memory-efficient kernels for it"

KERNELS: tuple[FusedKernel, ...] = (
    FusedKernel("RotaryEmbedding", "cpu", True, (0.98, 1.09), _MEASURED),
    # It beats repeated keys, but not the products that fold-query-groups makes of them (1.13 to
    # 3.6), except for prompts of 512 tokens; and it stops at batches of several new tokens behind
    # a cache.
    FusedKernel("GroupQueryAttention", "cpu", False, (1.04, 2.35), _MEASURED),
    FusedKernel("MultiHeadAttention", "cpu", False, (0.85, 1.05), _MEASURED),
    FusedKernel(
        "SkipLayerNormalization", "cpu", False, (0.15, 0.2), "benchmarks/residual_forms.py"
    ),
    FusedKernel("RotaryEmbedding", "cuda", True, None, "not measured; one kernel instead of six"),
    # Its CUDA kernel takes no attention_bias, in which padding is, and no float32.
    FusedKernel("GroupQueryAttention", "cuda", False, None, _DOCUMENTED),
    FusedKernel("MultiHeadAttention", "cuda", True, None, _UNMEASURED),
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

"""How many layers of a quantized model ONNX Runtime really computes on integers.

Between QuantizeLinear and DequantizeLinear it does so only where an integer kernel takes all that
is there; else it dequantizes and computes in float32. Which it was is read from its profile.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from onnxopt.runtime.measuring.profiling import Profile

_INTEGER = frozenset(
    {
        *("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger"),
        *("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"),
        *("QAttention", "QEmbedLayerNormalization"),
    }
)
_FLOAT = frozenset(
    {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
)
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class IntegerLayers:
    """Layers (convolutions and matrix products) by the kernel that runs them.

    Attributes:
        integer: Type of operator to its number of layers on integers.
        floating: Names of the layers in float32.
    """

    integer: Counter[str]
    floating: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"integer": dict(self.integer), "float": list(self.floating)}

    def __str__(self) -> str:
        """As "5 of 6 layers run on integers (QLinearConv 5), in float32: conv_3"."""
        count = self.integer.total()
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.integer.most_common())
        text = f"{count} of {count + len(self.floating)} layers run on integers"
        if kinds:
            text += f" ({kinds})"
        if self.floating:
            text += f", in float32: {', '.join(self.floating[:_NAMES_SHOWN])}"
            text += ", ..." * (len(self.floating) > _NAMES_SHOWN)
        return text


def read_integer_layers(profile: Profile) -> IntegerLayers:
    """Counts the layers of a profile."""
    nodes = sorted(profile.nodes, key=lambda node: node.name)
    return IntegerLayers(
        Counter(node.op_type for node in nodes if node.op_type in _INTEGER),
        tuple(node.name for node in nodes if node.op_type in _FLOAT),
    )

"""The rule of every operator that axes are followed through, by (domain, op type)."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxopt.graph.axes import (
    attention,
    convolution,
    linear,
    normalization,
    recurrent,
    reshaping,
    selecting,
)
from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.axes.elementwise import ELEMENTWISE, elementwise

Rule = Callable[[AxisBuilder, ir.Node], None]

_MICROSOFT = "com.microsoft"


def nothing(builder: AxisBuilder, node: ir.Node) -> None:
    """Operators through which nothing is followed, but that are no surprise."""


RULES: dict[tuple[str, str], Rule] = {
    **{("", kind): elementwise for kind in ELEMENTWISE},
    **{(_MICROSOFT, kind): elementwise for kind in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")},
    **{
        ("", f"Reduce{kind}"): normalization.reduce
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")
    },
    ("", "ReduceSumSquare"): normalization.reduce,
    ("", "ArgMax"): normalization.reduce,
    ("", "ArgMin"): normalization.reduce,
    **{
        ("", kind): nothing
        for kind in ("Constant", "ConstantOfShape", "NonZero", "OneHot", "Range", "TopK")
    },
    ("", "AveragePool"): convolution.pool,
    ("", "BatchNormalization"): normalization.batch_norm,
    ("", "Concat"): selecting.concat,
    ("", "Conv"): convolution.conv,
    ("", "ConvTranspose"): convolution.conv_transpose,
    ("", "CumSum"): normalization.cumulative,
    ("", "DepthToSpace"): convolution.depth_to_space,
    ("", "Einsum"): linear.einsum,
    ("", "Expand"): reshaping.expand,
    ("", "Flatten"): reshaping.reshape,
    ("", "GRU"): recurrent.recurrent,
    ("", "Gather"): selecting.gather,
    ("", "Gemm"): linear.gemm,
    ("", "GlobalAveragePool"): convolution.pool,
    ("", "GlobalLpPool"): convolution.pool,
    ("", "GlobalMaxPool"): convolution.pool,
    ("", "GroupNormalization"): normalization.group_norm,
    ("", "InstanceNormalization"): normalization.instance_norm,
    ("", "LSTM"): recurrent.recurrent,
    ("", "LayerNormalization"): normalization.layer_norm,
    ("", "LogSoftmax"): normalization.softmax,
    ("", "LpNormalization"): normalization.cumulative,
    ("", "LpPool"): convolution.pool,
    ("", "MatMul"): linear.matmul,
    ("", "MaxPool"): convolution.pool,
    ("", "Pad"): selecting.pad,
    ("", "RMSNormalization"): normalization.layer_norm,
    ("", "RNN"): recurrent.recurrent,
    ("", "Reshape"): reshaping.reshape,
    ("", "Resize"): convolution.resize,
    ("", "Shape"): reshaping.shape,
    ("", "SimplifiedLayerNormalization"): normalization.layer_norm,
    ("", "Size"): reshaping.shape,
    ("", "Slice"): selecting.slices,
    ("", "Softmax"): normalization.softmax,
    ("", "Split"): selecting.split,
    ("", "Squeeze"): reshaping.reshape,
    ("", "Tile"): reshaping.tile,
    ("", "Transpose"): reshaping.transpose,
    ("", "Unsqueeze"): reshaping.reshape,
    ("", "Upsample"): convolution.resize,
    (_MICROSOFT, "Attention"): attention.attention,
    (_MICROSOFT, "FusedMatMul"): linear.fused_matmul,
    (_MICROSOFT, "GroupQueryAttention"): attention.group_query_attention,
    (_MICROSOFT, "MultiHeadAttention"): attention.multi_head_attention,
    (_MICROSOFT, "RotaryEmbedding"): attention.rotary_embedding,
    (_MICROSOFT, "SkipLayerNormalization"): normalization.skip_layer_norm,
    (_MICROSOFT, "SkipSimplifiedLayerNormalization"): normalization.skip_layer_norm,
}

"""Attention in every spelling, and the fused operators that compute it."""

from __future__ import annotations

from onnxopt.passes.fusion.attention.fuse import FuseAttention
from onnxopt.passes.fusion.attention.query_groups import FoldQueryGroups
from onnxopt.passes.fusion.attention.rotary import FuseRotaryEmbedding

__all__ = ["FoldQueryGroups", "FuseAttention", "FuseRotaryEmbedding"]

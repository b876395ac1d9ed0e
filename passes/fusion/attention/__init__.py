"""Attention in every spelling, and the fused operators that compute it."""

from __future__ import annotations

from onnxopt.passes.fusion.attention.fuse import FuseAttention

__all__ = ["FuseAttention"]

"""Bundles: a model with the options it was measured with, and samples that prove it elsewhere."""

from __future__ import annotations

from onnxopt.runtime.bundles.loading import load_bundle as load_bundle

__all__ = ["load_bundle"]

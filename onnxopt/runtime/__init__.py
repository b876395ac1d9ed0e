"""Running models: the only importer of onnxruntime (sessions, inputs, parity, measurement)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxopt.runtime.bundles.loading import load_bundle as load_bundle

__all__ = ["load_bundle"]


def __getattr__(name: str) -> Any:
    # Bound on first use: most of this package is imported without ever opening a bundle.
    if name != "load_bundle":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from onnxopt.runtime.bundles.loading import load_bundle

    return load_bundle

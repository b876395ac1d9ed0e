"""onnxopt: make ONNX models fast and small without breaking them.

Example:
    >>> import onnxopt
    >>> result = onnxopt.optimize("model.onnx", "model.opt.onnx")  # doctest: +SKIP
    >>> print(result.report.to_text())  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxopt.benchmarking import benchmark as benchmark
    from onnxopt.bundling import BundleOptions as BundleOptions
    from onnxopt.bundling import bundle as bundle
    from onnxopt.bundling import optimize_to_bundle as optimize_to_bundle
    from onnxopt.bundling import verify as verify
    from onnxopt.comparing import compare as compare
    from onnxopt.converting import convert as convert
    from onnxopt.core.errors import OnnxOptError as OnnxOptError
    from onnxopt.core.passes import Pass as Pass
    from onnxopt.core.passes import PassResult as PassResult
    from onnxopt.core.passes import RewritePass as RewritePass
    from onnxopt.core.pipeline import Observer as Observer
    from onnxopt.core.pipeline import Pipeline as Pipeline
    from onnxopt.core.pipeline import Repeat as Repeat
    from onnxopt.core.report import Report as Report
    from onnxopt.export.exporting import export as export
    from onnxopt.generating import generate as generate
    from onnxopt.graph.loading import load_model as load
    from onnxopt.graph.saving import save_model as save
    from onnxopt.optimizing import Result as Result
    from onnxopt.optimizing import optimize as optimize
    from onnxopt.pruning import mask_weights as mask_weights
    from onnxopt.pruning import prune as prune
    from onnxopt.quantizing import quantize as quantize
    from onnxopt.recovering import recover as recover
    from onnxopt.weight_only import quantize_weights as quantize_weights

__version__ = "0.1.0"

# Public name to the module and attribute that hold it. Bound on first use: importing onnxopt costs
# milliseconds, and the command line's --help never pays for onnx or NumPy.
_EXPORTS = {
    "BundleOptions": ("onnxopt.bundling", "BundleOptions"),
    "Observer": ("onnxopt.core.pipeline", "Observer"),
    "OnnxOptError": ("onnxopt.core.errors", "OnnxOptError"),
    "Pass": ("onnxopt.core.passes", "Pass"),
    "PassResult": ("onnxopt.core.passes", "PassResult"),
    "Pipeline": ("onnxopt.core.pipeline", "Pipeline"),
    "Repeat": ("onnxopt.core.pipeline", "Repeat"),
    "Report": ("onnxopt.core.report", "Report"),
    "Result": ("onnxopt.optimizing", "Result"),
    "RewritePass": ("onnxopt.core.passes", "RewritePass"),
    "benchmark": ("onnxopt.benchmarking", "benchmark"),
    "bundle": ("onnxopt.bundling", "bundle"),
    "compare": ("onnxopt.comparing", "compare"),
    "export": ("onnxopt.export.exporting", "export"),
    "convert": ("onnxopt.converting", "convert"),
    "generate": ("onnxopt.generating", "generate"),
    "load": ("onnxopt.graph.loading", "load_model"),
    "mask_weights": ("onnxopt.pruning", "mask_weights"),
    "optimize": ("onnxopt.optimizing", "optimize"),
    "optimize_to_bundle": ("onnxopt.bundling", "optimize_to_bundle"),
    "verify": ("onnxopt.bundling", "verify"),
    "quantize_weights": ("onnxopt.weight_only", "quantize_weights"),
    "prune": ("onnxopt.pruning", "prune"),
    "quantize": ("onnxopt.quantizing", "quantize"),
    "recover": ("onnxopt.recovering", "recover"),
    "save": ("onnxopt.graph.saving", "save_model"),
}

__all__ = [
    "BundleOptions",
    "Observer",
    "OnnxOptError",
    "Pass",
    "PassResult",
    "Pipeline",
    "Repeat",
    "Report",
    "Result",
    "RewritePass",
    "__version__",
    "benchmark",
    "bundle",
    "compare",
    "convert",
    "export",
    "generate",
    "load",
    "mask_weights",
    "optimize",
    "optimize_to_bundle",
    "prune",
    "quantize",
    "quantize_weights",
    "recover",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'onnxopt' has no attribute {name!r}")
    module, attribute = _EXPORTS[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""The optional packages of an export, and the versions that made it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from onnxopt.core.errors import InvalidInputError, MissingDependencyError

_ADVICE = "pip install 'onnxopt[export]'"
_PACKAGES = (
    "onnxopt",
    "torch",
    "transformers",
    "optimum-onnx",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


def require_packages(kind: str, exporter: str) -> None:
    """Says which package is missing, before any work is done.

    Args:
        kind: Of the source: "folder", "hub", "function" or "program".
        exporter: The exporter that was asked for.

    Raises:
        InvalidInputError: The exporter cannot export such a source at all.
        MissingDependencyError: It is not installed; the message names the extra.
    """
    if exporter == "optimum" and kind not in ("folder", "hub"):
        raise InvalidInputError(
            f"optimum exports Hugging Face models only, and this is a {kind}: give --exporter "
            "dynamo or torchscript, or leave it out"
        )
    _require("torch", "to export models")
    if kind in ("folder", "hub"):
        _require("transformers", "to read Hugging Face models")
    if exporter == "optimum":
        from onnxopt.export.optimum import installed

        if not installed():
            raise MissingDependencyError(f"optimum-onnx is needed for this exporter: {_ADVICE}")


def _require(name: str, why: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise MissingDependencyError(f"{name} is needed {why}: {_ADVICE}")


def versions() -> dict[str, str]:
    """Version of every package that has a part in an export, where it is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

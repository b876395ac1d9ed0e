"""Raising an opset once in another process, since onnx's converter is native and can crash."""

from __future__ import annotations

import os
from contextlib import closing

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.passes.cleanup.opset import ConvertOpset
from onnxopt.runtime.child import Child, ChildEndedError

# For the largest graphs it is a matter of seconds.
_SECONDS = 300.0


def try_opset(path: str | os.PathLike[str], version: int, *, seconds: float = _SECONDS) -> None:
    """Converts a model for nothing but to see whether that ends.

    Args:
        path: The model's file.
        version: The opset to raise it to.
        seconds: When the attempt is stopped.

    Raises:
        InvalidInputError: The converter crashes, hangs or refuses the model.
        InvalidModelError: The model cannot be read.
    """
    try:
        with closing(Child(preload=(__name__,), seconds=seconds)) as child:
            child.call(_convert, os.fspath(path), version)
    except ChildEndedError as error:
        raise InvalidInputError(
            f"--opset {version}: onnx's version converter {error} on {path}; leave the option out, "
            "or export the model again"
        ) from error


def _convert(path: str, version: int) -> None:
    ConvertOpset(version=version)(load_model(path))

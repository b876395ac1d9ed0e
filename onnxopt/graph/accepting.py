"""What the API takes for a model: onnx_ir's, the onnx package's, nothing else by accident."""

from __future__ import annotations

import os
from typing import Any

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError


def accepted_model(model: Any) -> ir.Model:
    """The model itself if it is onnx_ir's; of an onnx.ModelProto a model that shares nothing.

    Raises:
        InvalidInputError: It is neither.
        InvalidModelError: The message is no valid model.
    """
    if isinstance(model, ir.Model):
        return model
    if not hasattr(model, "graph") or not hasattr(model, "SerializeToString"):
        is_path = isinstance(model, (str, os.PathLike))
        raise InvalidInputError(
            f"an object of type {type(model).__name__} is no model; pass an onnx_ir.Model or an "
            f"onnx.ModelProto{', which onnxopt.load reads from a path' if is_path else ''}"
        )
    from onnxopt.graph.conversion import model_from_proto

    copy = type(model)()
    copy.CopyFrom(model)
    return model_from_proto(copy)

"""Raising an old opset to where QuantizeLinear exists and takes a scale per channel."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.snapshot import restore, snapshot
from onnxopt.passes.cleanup import ConvertOpset

_PER_CHANNEL = 13


def raise_opset(model: ir.Model, mode: str) -> list[str]:
    """Raises the opset in place if static forms need it; returns what the user should know."""
    opset = model.opset_imports.get("", 1)
    if mode == "dynamic" or opset >= _PER_CHANNEL:
        return []
    before = snapshot(model)
    try:
        ConvertOpset(version=_PER_CHANNEL)(model)
    except InvalidInputError as error:
        restore(model, before)
        model.opset_imports[""] = opset
        return [f"opset {opset} is too old for scales per channel and cannot be raised: {error}"]
    return []

"""Raising an old opset to where QuantizeLinear exists and takes a scale per channel."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.snapshot import restore, snapshot
from onnxopt.passes.cleanup import ConvertOpset

_PER_CHANNEL = 13
_FIRST = 10


def raise_opset(model: ir.Model, mode: str) -> list[str]:
    """Raises the opset in place if static forms need it; returns what the user should know.

    Where 13 cannot be reached, anything from 10 on will do: there the pairs become operators of
    com.microsoft, which take scales per channel.
    """
    opset = model.opset_imports.get("", 1)
    if mode == "dynamic" or opset >= _PER_CHANNEL:
        return []
    reason = ""
    for version in range(_PER_CHANNEL, max(opset, _FIRST - 1), -1):
        before = snapshot(model)
        try:
            ConvertOpset(version=version)(model)
        except InvalidInputError as error:
            restore(model, before)
            model.opset_imports[""] = opset
            reason = reason or str(error)
        else:
            return []
    if opset >= _FIRST:
        return []
    return [f"opset {opset} is too old for static forms and cannot be raised: {reason}"]

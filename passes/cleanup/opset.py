"""Raise the opset of the default domain.

    model of opset 13  ->  the same model of opset 18

Attributes that became inputs (axes of Squeeze and the Reduce operators, ...) move, operators that
were renamed or split are rewritten, and those that left the standard with opset 10 are what they
stand for (see `removed_operators`); so does broadcasting of opset 6 and older (see
`old_broadcasts`). The conversion is onnxscript's where it covers the step and
onnx's own version converter elsewhere; weights are not copied. Functions of the model are inlined
first.

Refused, with an error and the model left as it was: a lower version than the model's, a version
that onnx does not know, a model with an operator that the converter cannot convert.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from typing import ClassVar

import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Pass, PassResult
from onnxopt.graph.known_operators import newest_opset
from onnxopt.passes.cleanup.old_broadcasts import align_old_broadcasts
from onnxopt.passes.cleanup.removed_operators import replace_removed_operators

_REMOVING_OPSET = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOpset(Pass):
    """Raises the default domain to a newer opset.

    Attributes:
        version: The version to raise it to.
    """

    name: ClassVar[str] = "convert-opset"
    claims_speed: ClassVar[bool] = False

    version: int = 21

    def call(self, model: ir.Model) -> PassResult:
        """Converts the main graph and its subgraphs."""
        current = model.opset_imports.get("", 1)
        if self.version == current:
            return PassResult(model)
        if self.version < current:
            raise InvalidInputError(
                f"--opset {self.version}: the model has opset {current} already; "
                "it can only be raised"
            )
        newest = newest_opset()
        if self.version > newest:
            raise InvalidInputError(
                f"--opset {self.version}: the installed onnx knows opsets up to {newest}"
            )
        align_old_broadcasts(model)
        if self.version >= _REMOVING_OPSET:
            replace_removed_operators(model)
        logger = logging.getLogger("onnxscript.version_converter")
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            ConvertVersionPass(self.version, fallback=True)(model)
        except (RuntimeError, ValueError, LookupError, ir.passes.PassError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InvalidInputError(
                f"--opset {self.version}: the version converter cannot convert this model from "
                f"opset {current}: {reason}"
            ) from error
        finally:
            logger.setLevel(level)
        if model.opset_imports.get("") != self.version:
            raise InvalidInputError(
                f"--opset {self.version}: the version converter cannot convert this model from "
                f"opset {current}; try a version in between, or export the model again"
            )
        return PassResult(model, Counter({f"{current} to {self.version}": 1}))

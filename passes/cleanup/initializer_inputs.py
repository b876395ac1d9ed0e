"""Weights that old exporters list among the graph inputs.

    graph (x, w) with initializer w   -> graph (x) with initializer w
    IR version < 4                    -> IR version 4

An initializer that is also a graph input is a default which the caller may override at run time, so
no other pass may treat it as a constant. Before IR version 4 every initializer had to be listed so;
exporters of that time did not mean it as an offer, and this pass takes it back. That changes what
the model accepts: a caller who did feed `w` gets an error. Name such inputs in `keep`.

IR version 4 is the first that allows initializers outside the inputs. It says nothing about
operators: the opset stays as it is. It is raised even if no input is removed, because other passes
add initializers.

Subgraphs and functions have no such inputs and are left alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import ClassVar

import onnx_ir as ir

from onnxopt.core.errors import InvalidInputError
from onnxopt.core.passes import Pass, PassResult

_FIRST_IR_VERSION = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveInitializersFromInputs(Pass):
    """Makes constants of the weights that are listed as graph inputs.

    Attributes:
        keep: Names of inputs that callers do override; they stay inputs with a default.
    """

    name: ClassVar[str] = "remove-initializers-from-inputs"
    claims_speed: ClassVar[bool] = False
    keep: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> PassResult:
        """Takes initializers out of the inputs of the main graph.

        Raises:
            InvalidInputError: `keep` names something that is no graph input.
        """
        inputs = list(model.graph.inputs)
        unknown = set(self.keep) - {value.name for value in inputs}
        if unknown:
            raise InvalidInputError(
                f"{self.name}: keep names {sorted(unknown)[0]!r}, which is no graph input"
            )
        kept = [value for value in inputs if not value.is_initializer() or value.name in self.keep]
        rewrites: Counter[str] = Counter()
        if len(kept) < len(inputs):
            rewrites["initializer-input"] = len(inputs) - len(kept)
            model.graph.inputs.clear()
            model.graph.inputs.extend(kept)
        if model.ir_version < _FIRST_IR_VERSION:
            model.ir_version = _FIRST_IR_VERSION
            rewrites["ir-version"] = 1
        return PassResult(model, rewrites)

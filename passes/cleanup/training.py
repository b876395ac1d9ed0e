"""Operators that were exported in training mode.

    Dropout(x, 0, true)                           -> x    (a ratio of 0 is exact)
    with force:
    Dropout(x, r, true), Dropout<is_test=0>(x)    -> x
    BatchNormalization<training_mode=1>(x, ...)   -> BatchNormalization(x, ...)
    y, m, v, .. = BatchNormalization(x, ...)      -> y = BatchNormalization(x, ...)  before opset 14

In training mode a Dropout is random and a BatchNormalization normalizes with the mean and variance
of the batch at hand instead of those it learned. Both mean that the model was exported without
`model.eval()`. Turning them off changes what the model computes, so that by default they are
refused with that reason; `force` makes them what they are at inference. Before opset 14 the number
of outputs of a BatchNormalization selects the mode, even if nothing reads them.

Also refused: a mask, mean or variance that something reads; a training mode that is computed at run
time. A Dropout that does not train is no leftover of training: `remove-identities` removes it.
Subgraphs are rewritten too; functions are left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, int_attribute, is_uniform, opset_version
from onnxopt.passes.cleanup.single_node import Bypass, NodeRule, has_input, no_match, refuse

_ADVICE = "export the model after model.eval(), or set the option force"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveTrainingMode(RewritePass):
    """Makes Dropout and BatchNormalization run as they do at inference.

    Attributes:
        force: Also where that changes what the model computes.
    """

    name: ClassVar[str] = "remove-training-mode"
    force: bool = False

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per operator that has a training mode."""

        def dropout(node: ir.Node, version: int) -> ir.Value | str | None:
            return _trained_dropout(node, version, force=self.force)

        return [
            Bypass.rule("Dropout", "training-dropout", dropout),
            _BatchNormalization.rule("BatchNormalization", "training-batch-norm", self.force),
        ]


def _trained_dropout(node: ir.Node, version: int, *, force: bool) -> ir.Value | str | None:
    if version < 7:
        trains = int_attribute(node, "is_test", 0) == 0
    elif version < 12 or not has_input(node, 2):
        trains = False
    else:
        mode = constant(node.inputs[2])
        if mode is None:
            return "whether the Dropout trains is computed at run time"
        trains = bool(mode.any())
    if not trains:
        return None
    if _extra_outputs_are_used(node):
        return "the mask of the Dropout is used"
    exact = version >= 12 and has_input(node, 1) and is_uniform(node.inputs[1], 0)
    if exact or force:
        return node.inputs[0]
    return f"the Dropout is in training mode, its output is random: {_ADVICE}"


def _extra_outputs_are_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


class _BatchNormalization(NodeRule):
    def __init__(self, op_type: str, name: str, force: bool) -> None:
        super().__init__(op_type, name)
        self._force = force

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        version = opset_version(node, context.model)
        if version >= 14:
            trains = int_attribute(node, "training_mode", 0) != 0
        else:
            trains = version >= 7 and any(value.name for value in node.outputs[1:])
        if not trains:
            return no_match()
        if _extra_outputs_are_used(node):
            return refuse("the statistics that the BatchNormalization computes are used", node)
        if not self._force:
            return refuse(
                "the BatchNormalization is in training mode, it uses the statistics of the batch: "
                + _ADVICE,
                node,
            )
        return MatchResult()

    def rewrite(self, op: Any, root: ir.Value) -> ir.Value:
        node = root.producer()
        assert node is not None
        attributes = {
            name: attribute.value
            for name, attribute in node.attributes.items()
            if name != "training_mode"
        }
        result: ir.Value = op.BatchNormalization(*node.inputs, **attributes)
        return result

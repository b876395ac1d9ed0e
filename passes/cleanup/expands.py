"""Expand in front of an operator that broadcasts by itself.

    Add(Expand(x, s), y)      -> Add(x, y)           every elementwise operator, any operand
    Where(Expand(c, s), x, y) -> Where(c, x, y)
    MatMul(Expand(x, s), y)   -> MatMul(x, y)        if only the batch axes were expanded

The result keeps its shape if, on every axis, x already has the size of the result or another
operand has it. Sizes are integers or symbols that are provably equal; what s says does not matter.

Refused, without a word: every Expand that decides about the shape of the result, and operators of
opsets before 7, which broadcast in one direction only. Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import dims, opset_version
from onnxopt.passes.cleanup.single_node import NodeRule, found, no_match, producer_of

_BROADCASTING = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Mod", "Where"),
    *("And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "MatMul"),
)
Dims = tuple[int | str | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoveBroadcastExpands(RewritePass):
    """Removes Expand where the operator that reads it broadcasts by itself."""

    name: ClassVar[str] = "remove-broadcast-expands"

    def rules(self) -> Sequence[RewriteRule]:
        """One rule per broadcasting operator."""
        return [_Operand.rule(op_type, f"expand-{op_type.lower()}") for op_type in _BROADCASTING]


class _Operand(NodeRule):
    """An operand that is expanded for nothing."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        """Looks for the first such operand."""
        node = context.root
        for index, value in enumerate(node.inputs):
            expand = producer_of(value, "Expand")
            if expand is None or opset_version(node, context.model) < 7:
                continue
            inputs = list(node.inputs)
            inputs[index] = expand.inputs[0]
            if _same_result(node, index, inputs):
                return found(inputs=tuple(inputs))
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, inputs: tuple[ir.Value | None, ...]) -> Any:
        """The same operator on the value before the Expand."""
        node = root.producer()
        assert node is not None
        return op.op(self.op_type, *inputs, **node.attributes)


def _same_result(node: ir.Node, index: int, inputs: Sequence[ir.Value | None]) -> bool:
    """True if the result provably has the same shape with these inputs."""
    wanted = dims(node.outputs[0])
    shapes = [dims(value) for value in inputs]
    expanded = dims(node.inputs[index])
    known = [shape for shape in shapes if shape is not None]
    if wanted is None or expanded is None or len(known) < len(shapes):
        return False
    if node.op_type == "MatMul":
        if min(len(shape) for shape in known) < 2 or known[index][-2:] != expanded[-2:]:
            return False
        if None in expanded[-2:]:
            return False
        known, wanted = [shape[:-2] for shape in known], wanted[:-2]
    return None not in wanted and all(
        any(_size(shape, place) == wanted[-place] for shape in known)
        for place in range(1, len(wanted) + 1)
    )


def _size(shape: Dims, place: int) -> int | str | None:
    """The size of an axis counted from the end; None if there is none."""
    return shape[-place] if place <= len(shape) else None

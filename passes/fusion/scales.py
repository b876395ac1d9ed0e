"""A single number behind layout operations and products, moved into the weight where it all starts.

    Transpose(Reshape(x W + b)) * s            -> Transpose(Reshape(x (s W) + s b))
    MatMul(Transpose(Reshape(x W + b)), k) / s -> MatMul(Transpose(Reshape(x (W/s) + b/s)), k)

This is the 1/sqrt(d) of attention, as one Div of the scores or as two Muls of query and key: it
costs a pass over the largest tensors of the layer and vanishes in the query weight. Any number of
Transpose, Reshape, Unsqueeze, Squeeze and at most one MatMul of two computed operands may lie
between; every step must have one user. Through the MatMul, the first operand is tried first.

Refused: weights that other nodes share; intermediate values with other users are no match, and
neither are constants with several elements (`FuseConvArithmetic` folds those next to the weight).
Subgraphs are rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import Linear, after, linear_producer, shared_weight

_LAYOUT = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")

# One step on the way: the node and which of its inputs comes from the weight.
_Step = tuple[ir.Node, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseScales(RewritePass):
    """Moves a factor behind layout operations or an attention product into the query weight."""

    name: ClassVar[str] = "fuse-scales"

    def rules(self) -> Sequence[RewriteRule]:
        """Multiplied or divided by the number."""
        return [_Scale.rule("Mul", "scale-into-weight"), _Scale.rule("Div", "divisor-into-weight")]


class _Scale(NodeRule):
    """A number on the end of a chain that starts at a linear node."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        data, number = node.inputs[:2]
        array = constant(number)
        if array is None and node.op_type == "Mul":
            data, array = number, constant(data)
        if data is None or array is None or array.size != 1 or constant(data) is not None:
            return no_match()
        if array.ndim > (rank(data) or 0):
            return no_match()
        factor = float(array.reshape(-1)[0])
        if not np.isfinite(factor) or factor == 0:
            return no_match()
        source = _source(data, through_product=True)
        if source is None or not source[1]:
            return no_match()
        linear, path = source
        reason = shared_weight(linear, node)
        if reason:
            return refuse(reason, node)
        return found(parts=(linear, path, 1.0 / factor if node.op_type == "Div" else factor))

    def rewrite(
        self, op: Any, root: ir.Value, parts: tuple[Linear, list[_Step], float]
    ) -> ir.Value | MatchResult:
        """The linear node with scaled constants, and all steps again."""
        linear, path, factor = parts
        y = after(op, linear, np.asarray(factor), None)
        if isinstance(y, str):
            return refuse(y, linear.node)
        for node, index in path:
            inputs = list(node.inputs)
            inputs[index] = y
            y = op.op(node.op_type, *inputs, _name=node.name, **node.attributes)
            y.type, y.shape = node.outputs[0].type, node.outputs[0].shape
        return y


def _source(value: ir.Value, *, through_product: bool) -> tuple[Linear, list[_Step]] | None:
    """The linear node that `value` comes from, and the steps from there."""
    if not only_user(value):
        return None
    node = producer_of(value, *_LAYOUT)
    if node is not None and node.inputs[0] is not None:
        found = _source(node.inputs[0], through_product=through_product)
        return None if found is None else (found[0], [*found[1], (node, 0)])
    linear = linear_producer(value)
    if isinstance(linear, Linear):
        return linear, []
    product = producer_of(value, "MatMul")
    if product is None or not through_product:
        return None
    for index, operand in enumerate(product.inputs):
        found = None if operand is None else _source(operand, through_product=False)
        if found is not None:
            return found[0], [*found[1], (product, index)]
    return None

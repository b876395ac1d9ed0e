"""Attention that was left as it is, and the node at which it stops being what a pass knows.

Between the product of query and key and that of probabilities and values stands a Softmax. Where
both products are near it, and the second became no fused operator, the nodes on the way are
compared with those that attention is made of.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.core.walking import all_graphs
from onnxopt.expected_fusions import NearMiss
from onnxopt.graph.values import constant, int_attribute, rank

_PRODUCTS = ("MatMul", "Einsum", "Gemm")
# What attention may have between its products; anything else is where it ends.
_BEFORE = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Identity",
    "Cast",
    "Dropout",
    "Tanh",
    "Reshape",
    "Transpose",
)
_AFTER = ("Identity", "Cast", "Dropout", "Where")
_MOST_STEPS = 8


def missed_attention(model: ir.Model) -> Iterator[NearMiss]:
    """Softmax between two products in all graphs of an optimized model, if a node is unlike."""
    for graph in all_graphs(model):
        for node in graph:
            if node.op_type == "Softmax" and not node.domain:
                before, after = _back_to_product(node), _on_to_product(node)
                miss = _compared(before, node, after) if before and after else None
                if miss is not None:
                    yield miss


def _compared(before: list[ir.Node], softmax: ir.Node, after: list[ir.Node]) -> NearMiss | None:
    nodes = [*before, softmax, *after]
    unlike = {one: why for one in nodes if (why := _unlike(one, before, softmax, after))}
    if not unlike:
        return None  # the pass knows it and says why not
    place, reason = next(iter(unlike.items()))
    matched = len(nodes) - len(unlike)
    return NearMiss("fuse-attention", _name(after[-1]), matched, len(nodes), _name(place), reason)


def _unlike(node: ir.Node, before: list[ir.Node], softmax: ir.Node, after: list[ir.Node]) -> str:
    if node is softmax:
        size = rank(node.outputs[0])
        last = int_attribute(node, "axis", -1) in (-1, None if size is None else size - 1)
        return "" if last else "the Softmax is not over the keys, the last axis"
    if node in (before[0], after[-1]):
        return "" if node.op_type == "MatMul" else f"the product is spelled {node.op_type}"
    where = ("scores", _BEFORE) if node in before else ("probabilities", _AFTER)
    return "" if node.op_type in where[1] else f"the {where[0]} pass through {node.op_type}"


def _back_to_product(softmax: ir.Node) -> list[ir.Node]:
    """The nodes from the product of query and key, which comes first, to the Softmax."""
    pending, seen = [(softmax, list[ir.Node]())], set[ir.Node]()
    while pending:
        user, path = pending.pop(0)
        for value in user.inputs:
            node = None if value is None else value.producer()
            if node is None or node.domain or node in seen or len(path) > _MOST_STEPS:
                continue
            seen.add(node)
            if node.op_type in _PRODUCTS and _multiplies_computed(node):
                return [node, *path]
            if node.op_type not in _PRODUCTS:
                pending.append((node, [node, *path]))
    return []


def _on_to_product(softmax: ir.Node) -> list[ir.Node]:
    """The nodes from the Softmax to the product with the values, which comes last."""
    value, path = softmax.outputs[0], list[ir.Node]()
    for _ in range(_MOST_STEPS):
        users = [user for user, _ in value.uses() if not user.domain and user.op_type != "IsNaN"]
        product = next((user for user in users if user.op_type in _PRODUCTS), None)
        if product is not None:
            return [*path, product] if _multiplies_computed(product) else []
        if not users:
            return []
        path.append(users[0])
        value = users[0].outputs[0]
    return []


def _multiplies_computed(node: ir.Node) -> bool:
    return all(constant(value) is None for value in node.inputs[:2])


def _name(node: ir.Node) -> str:
    return node.name or node.op_type

"""The product of query and key: which way leads back to it, and the numbers in its operands."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.graph.values import constant, rank
from onnxopt.passes.cleanup.single_node import producer_of
from onnxopt.passes.fusion.attention.canonical import UnlikeError
from onnxopt.passes.fusion.attention.heads import plain
from onnxopt.passes.fusion.polynomials import number

# Nodes that are looked at in search of the product, and between it and its operands.
_MOST_STEPS = 24
_FEW_STEPS = 12


def scores_and_other(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The operand of a sum that is a product of query and key, and the other one.

    Raises:
        UnlikeError: Both are, or none.
    """
    leads = [leads_to_product(value) for value in node.inputs]
    if all(leads):
        raise UnlikeError("two products are added up")
    if not any(leads):
        raise UnlikeError("no product of query and key is behind the Softmax")
    scores, other = node.inputs if leads[0] else node.inputs[::-1]
    assert scores is not None
    assert other is not None
    return scores, other


def leads_to_product(value: ir.Value | None) -> bool:
    """True if a MatMul of two computed values is near behind the value."""
    pending, seen = [value], 0
    while pending and seen < _MOST_STEPS:
        node = None if (current := pending.pop()) is None else current.producer()
        seen += 1
        if node is None or node.domain:
            continue
        if node.op_type == "MatMul":
            if (rank(node.outputs[0]) or 0) >= 3 and _computed(node):
                return True
            continue
        pending.extend(_ways(node))
    return False


def _ways(node: ir.Node) -> Iterator[ir.Value | None]:
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        yield from node.inputs
    elif node.op_type in ("Identity", "Cast", "Dropout", "Tanh", "Reshape", "Transpose"):
        yield node.inputs[0]
    elif node.op_type == "Where":
        yield from node.inputs[1:]


def _computed(product: ir.Node) -> bool:
    return all(constant(value) is None for value in product.inputs)


def unscaled(value: ir.Value | None) -> tuple[ir.Value, float]:
    """The value behind Mul and Div by a number, Identity and Cast, and the product of the numbers.

    Transposes change nothing about it and stay in front.
    """
    factor = 1.0
    value = plain(value)
    for _ in range(_FEW_STEPS):
        node = producer_of(value, "Mul", "Div")
        if node is None:
            break
        found = None
        for source, other in (node.inputs, node.inputs[::-1])[: 1 + (node.op_type == "Mul")]:
            found = number(other, source)
            if found:
                factor *= found if node.op_type == "Mul" else 1.0 / found
                value = plain(source)
                break
        if not found:
            break
    assert value is not None
    return value, factor

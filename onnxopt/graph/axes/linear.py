"""MatMul, Gemm, Einsum and their kin: one axis is summed over, the others go to the output."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt.graph.axes.builder import AxisBuilder
from onnxopt.graph.axes.elementwise import broadcast
from onnxopt.graph.values import int_attribute


def matmul(builder: AxisBuilder, node: ir.Node) -> None:
    """`[.., m, k] x [.., k, n]`; operands of rank 1 as NumPy treats them."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    output = node.outputs[0]
    _contract(builder, left, -1, right, -1 if builder.rank(right) == 1 else -2)
    if builder.rank(left) > 1:
        row = -2 if builder.rank(right) > 1 else -1
        builder.join(output, row, builder.axis(left, -2))
    if builder.rank(right) > 1:
        builder.join(output, -1, builder.axis(right, -1))
    batched = [value for value in (left, right) if builder.rank(value) > 2]
    if len(batched) == 2 or (batched and min(builder.rank(left), builder.rank(right)) > 1):
        broadcast(builder, batched, output, but=2)


def fused_matmul(builder: AxisBuilder, node: ir.Node) -> None:
    """com.microsoft FusedMatMul: MatMul with transposed operands."""
    if any(int_attribute(node, f"transBatch{side}", 0) for side in "AB"):
        return
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    if min(builder.rank(left), builder.rank(right)) < 2:
        return
    flips = [int_attribute(node, f"trans{side}", 0) for side in "AB"]
    _contract(builder, left, -2 if flips[0] else -1, right, -1 if flips[1] else -2)
    output = node.outputs[0]
    builder.join(output, -2, builder.axis(left, -1 if flips[0] else -2))
    builder.join(output, -1, builder.axis(right, -2 if flips[1] else -1))
    broadcast(builder, [v for v in (left, right) if builder.rank(v) > 2], output, but=2)


def gemm(builder: AxisBuilder, node: ir.Node) -> None:
    """`A' B' + C`, where C broadcasts."""
    left, right = node.inputs[0], node.inputs[1]
    assert left is not None
    assert right is not None
    output = node.outputs[0]
    flip_left, flip_right = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    _contract(builder, left, 0 if flip_left else 1, right, 1 if flip_right else 0)
    builder.join(output, 0, builder.axis(left, 1 if flip_left else 0))
    builder.join(output, 1, builder.axis(right, 0 if flip_right else 1))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        broadcast(builder, [node.inputs[2]], output)


def einsum(builder: AxisBuilder, node: ir.Node) -> None:
    """Axes with one letter are one; letters that the output lacks are summed over."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    operands = [value for value in node.inputs if value is not None]
    if not arrow or "." in equation or any(len(set(t)) < len(t) for t in terms.split(",")):
        return
    first: dict[str, tuple[ir.Value, int]] = {}
    for value, term in zip(operands, terms.split(","), strict=True):
        for index, letter in enumerate(term):
            builder.axis(value, index)
            if letter in first:
                builder.link(*first[letter], value, index)
            first.setdefault(letter, (value, index))
            if letter not in result:
                builder.contract(value, index)
    for index, letter in enumerate(result):
        builder.join(node.outputs[0], index, builder.axis(*first[letter]))


def _contract(
    builder: AxisBuilder, left: ir.Value, first: int, right: ir.Value, second: int
) -> None:
    builder.link(left, first, right, second)
    builder.contract(left, first)
    builder.contract(right, second)

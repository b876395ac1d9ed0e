"""MatMul + Add as Gemm for matrices, and Gemm between Reshapes as MatMul + Add for higher ranks.

    MatMul(a, b) + c                          -> Gemm(a, b, c)                  a, b of rank 2
    Reshape(Gemm(Reshape(x), W, c))           -> MatMul(x, W) + c               x of rank 3 and more
    Gemm(Transpose(a), b), Gemm(a, Transpose(b))  -> Gemm with transA, transB
    Gemm(a, W, c, alpha, beta)                -> Gemm(a, alpha * W, beta * c)   W, c constant

Time of MatMul + Add over the time of the other form, chains of four layers with Relu, one thread,
ONNX Runtime 1.32 with its own optimizations on / off (`benchmarks/gemm_forms.py`):

                       Gemm           Reshape, Gemm, Reshape
    1 x 384            1.00 / 1.00    0.99 / 0.98
    1 x 1536           0.97 / 1.01
    16 x 384           1.11 / 1.00
    128 x 384          1.00 / 1.09    0.93 / 1.03
    128 x 1536         1.00 / 1.06    1.00 / 1.07

With its optimizations on, ONNX Runtime makes Gemm of both by itself (inside Reshapes for rank 3),
so that the forms are equal within the noise; what counts is fewer nodes, other runtimes, and that
quantizers know MatMul best. Without them Gemm saves the pass over the output that Add makes.

Refused: a product with other users; operands of unknown or higher rank; c that is computed (a
residual, unless it is a vector) or would enlarge the product; operands that come out of
DequantizeLinear, whose MatMul ONNX Runtime turns into an integer kernel; opset 6 and older;
Reshapes that are not proven to leave everything but the last axis as it was. Subgraphs are
rewritten too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter.pattern import MatchResult, RewriteRule

from onnxopt.core.passes import RewritePass
from onnxopt.graph.values import constant, dims, int_attribute, opset_version, rank
from onnxopt.passes.cleanup.single_node import (
    NodeRule,
    found,
    has_input,
    no_match,
    only_user,
    producer_of,
    refuse,
)
from onnxopt.passes.fusion.linear import FLOATS, Linear, after, read_linear, shared_weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuseMatMulAdd(RewritePass):
    """Writes x W + b as one Gemm for matrices and as MatMul + Add for higher ranks."""

    name: ClassVar[str] = "fuse-matmul-add"

    def rules(self) -> Sequence[RewriteRule]:
        """MatMul + Add, flags and factors of Gemm, Gemm between Reshapes."""
        return [
            _MatMulAdd.rule("Add", "matmul-add-to-gemm"),
            _TransposedOperand.rule("Gemm", "transpose-into-gemm"),
            _ConstantFactors.rule("Gemm", "fold-alpha-beta"),
            _ReshapedGemm.rule("Reshape", "reshaped-gemm-to-matmul"),
        ]


class _MatMulAdd(NodeRule):
    """`MatMul(a, b) + c`, both orders."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        add = context.root
        for index in (0, 1):
            matmul = producer_of(add.inputs[index], "MatMul")
            bias = add.inputs[1 - index]
            if matmul is None or bias is None or not only_user(matmul.outputs[0]):
                continue
            if [rank(operand) for operand in matmul.inputs] != [2, 2]:
                continue
            if opset_version(add, context.model) < 7 or not _is_bias(bias, matmul):
                continue
            if any(producer_of(operand, "DequantizeLinear") for operand in matmul.inputs):
                continue
            return found(parts=(matmul, bias))
        return no_match()

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Node, ir.Value]) -> ir.Value:
        """One Gemm."""
        matmul, bias = parts
        gemm: ir.Value = op.Gemm(*matmul.inputs, bias, _name=matmul.name)
        return gemm


def _is_bias(bias: ir.Value, matmul: ir.Node) -> bool:
    """True if `bias` broadcasts into the product and is no second product to be added."""
    shape = dims(bias)
    if shape is None or len(shape) > 2 or bias.dtype not in FLOATS:
        return False
    columns = (dims(matmul.inputs[1]) or (None, None))[1]
    if shape and shape[-1] != 1 and (shape[-1] is None or shape[-1] != columns):
        return False
    return len(shape) < 2 or shape[0] == 1


class _TransposedOperand(NodeRule):
    """`Gemm` with an operand out of Transpose."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        operands: list[tuple[ir.Value, int]] = []
        changed = False
        for operand, flag in zip(node.inputs[:2], ("transA", "transB"), strict=True):
            transposed = int_attribute(node, flag, 0)
            transpose = producer_of(operand, "Transpose")
            # A Gemm operand is a matrix, so there is only one way to permute it, or none.
            if transpose is not None and _swaps(transpose) and transpose.inputs[0] is not None:
                operand, transposed, changed = transpose.inputs[0], 1 - transposed, True
            if operand is None:
                return no_match()
            operands.append((operand, transposed))
        return found(parts=operands) if changed else no_match()

    def rewrite(self, op: Any, root: ir.Value, parts: list[tuple[ir.Value, int]]) -> ir.Value:
        """The Gemm on what was transposed, with the flags turned around."""
        node = root.producer()
        assert node is not None
        (a, trans_a), (b, trans_b) = parts
        attributes: dict[str, Any] = dict(node.attributes) | {"transA": trans_a, "transB": trans_b}
        gemm: ir.Value = op.Gemm(a, b, *node.inputs[2:], **attributes)
        return gemm


def _swaps(transpose: ir.Node) -> bool:
    perm = transpose.attributes.get("perm")
    return perm is None or list(perm.as_ints()) == [1, 0]


class _ConstantFactors(NodeRule):
    """`Gemm` with alpha or beta other than one and constants to fold them into."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        factors = [node.attributes[name] for name in ("alpha", "beta") if name in node.attributes]
        if all(factor.as_float() == 1.0 for factor in factors):
            return no_match()
        linear = read_linear(node)
        if linear is None or isinstance(linear, str):
            return no_match()
        reason = shared_weight(linear, node)
        if reason:
            return refuse(reason, node)
        return found(parts=linear)

    def rewrite(self, op: Any, root: ir.Value, parts: Linear) -> ir.Value | MatchResult:
        """The Gemm with new constants."""
        y = after(op, parts, None, None)
        return refuse(y, parts.node) if isinstance(y, str) else y


class _ReshapedGemm(NodeRule):
    """`Reshape(Gemm(Reshape(x), W, c))` that only merges and splits the leading axes."""

    def check(self, context: Any, root: ir.Value) -> MatchResult:
        node = context.root
        gemm = producer_of(node.inputs[0], "Gemm")
        flatten = None if gemm is None else producer_of(gemm.inputs[0], "Reshape")
        if gemm is None or flatten is None or not only_user(gemm.outputs[0]):
            return no_match()
        x = flatten.inputs[0]
        inner, outer = dims(x), dims(root)
        weight = constant(gemm.inputs[1])
        if inner is None or outer is None or len(inner) < 3 or len(inner) != len(outer):
            return no_match()
        if int_attribute(gemm, "transA", 0) or weight is None or x is None:
            return no_match()
        depth, width = weight.shape[::-1] if int_attribute(gemm, "transB", 0) else weight.shape
        if (inner[-1], outer[-1]) != (depth, width):
            return no_match()
        if None in inner or inner[:-1] != outer[:-1]:
            return refuse("the Reshapes around the Gemm are not proven to undo each other", node)
        if any(name in gemm.attributes for name in ("alpha", "beta")):
            return no_match()
        if int_attribute(gemm, "transB", 0):
            linear = read_linear(gemm)
            if not isinstance(linear, Linear):
                return no_match()
            reason = shared_weight(linear, gemm)
            if reason:
                return refuse(reason, node)
        if has_input(gemm, 2) and not _is_vector(gemm.inputs[2], width):
            return no_match()
        return found(parts=(x, gemm))

    def rewrite(self, op: Any, root: ir.Value, parts: tuple[ir.Value, ir.Node]) -> ir.Value:
        """MatMul and Add on the unflattened value."""
        x, gemm = parts
        weight = gemm.inputs[1]
        assert weight is not None
        if int_attribute(gemm, "transB", 0):
            array = constant(weight)
            assert array is not None
            turned = ir.Tensor(np.ascontiguousarray(array.T), dtype=weight.dtype)
            weight = op.initializer(turned, name=weight.name)
        y: ir.Value = op.MatMul(x, weight, _name=gemm.name)
        if has_input(gemm, 2):
            y.type, y.shape = root.type, root.shape
            y = op.Add(y, gemm.inputs[2])
        return y


def _is_vector(bias: ir.Value | None, width: int) -> bool:
    shape = dims(bias)
    return shape is not None and shape in ((), (1,), (width,), (1, 1), (1, width))

"""`RemoveBroadcastExpands`: operators that broadcast by themselves, and Expands that are needed."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.expands import RemoveBroadcastExpands


def _model(text: str, opset: int = 18) -> ir.Model:
    model = parse_model(text, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"])
@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("opset", [8, 13, 21])
def test_expand_goes_when_the_other_operand_is_as_large(op: str, dtype: str, opset: int) -> None:
    model = _model(
        f"""g ({dtype}[1,3] x, {dtype}[4,3] z) => ({dtype}[4,3] y) <int64[2] s = {{4, 3}}>
        {{ w = Exp(z) e = Expand(x, s) y = {op}(w, e) }}""",
        opset=opset,
    )
    expect = ["Exp", op]
    assert_rewrites(RemoveBroadcastExpands(), model, expect=expect, rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["Equal", "Less", "GreaterOrEqual"])
def test_expand_goes_when_sizes_are_symbols(op: str) -> None:
    model = _model(
        f"""g (float[N,1] x, float[N,M] z) => (bool[N,M] y)
        {{ s = Shape(z) e = Expand(x, s) y = {op}(z, e) }}"""
    )
    model.graph[1].outputs[0].shape = ir.Shape(["N", "M"])
    assert_rewrites(
        RemoveBroadcastExpands(), model, expect=[op], rewrites=1, rtol=0, atol=0,
        sizes=[{"N": 2, "M": 3}, {"N": 1, "M": 1}],
    )  # fmt: skip


def test_expand_goes_when_a_condition_is_expanded() -> None:
    model = _model(
        """g (bool[1,3] c, float[4,3] a, float[3] b) => (float[4,3] y) <int64[2] s = {4, 3}>
        { e = Expand(c, s) y = Where(e, a, b) }"""
    )
    assert_rewrites(RemoveBroadcastExpands(), model, expect=["Where"], rewrites=1, rtol=0, atol=0)


def test_expand_goes_when_only_the_batch_of_a_matmul_is_expanded() -> None:
    model = _model(
        """g (float[1,3,4] x, float[N,4,5] z) => (float[N,3,5] y) {
            s = Shape(z) i = Constant<value_ints=[0]>() n = Gather(s, i)
            o = Constant<value_ints=[3,4]>() t = Concat<axis=0>(n, o)
            e = Expand(x, t) y = MatMul(e, z)
        }"""
    )
    model.graph[5].outputs[0].shape = ir.Shape(["N", 3, 4])
    result = RemoveBroadcastExpands()(model)
    assert result.rewrites == {"expand-matmul": 1}
    assert "Expand" not in op_types(model)


@pytest.mark.parametrize(
    "text",
    [
        # nobody else has the size
        """g (float[1,3] x, float[3] z) => (float[4,3] y) <int64[2] s = {4, 3}>
        { e = Expand(x, s) y = Add(e, z) }""",
        # the rank comes from the Expand
        """g (float[3] x, float[3] z) => (float[1,3] y) <int64[2] s = {1, 3}>
        { e = Expand(x, s) y = Add(e, z) }""",
        # the rows of a matrix
        """g (float[1,4] x, float[4,5] z) => (float[3,5] y) <int64[2] s = {3, 4}>
        { e = Expand(x, s) y = MatMul(e, z) }""",
        # no operator that broadcasts
        """g (float[1,3] x, float[4,3] z) => (float[8,3] y) <int64[2] s = {4, 3}>
        { e = Expand(x, s) y = Concat<axis=0>(e, z) }""",
    ],
)
def test_expand_stays_when_it_decides_about_the_shape(text: str) -> None:
    assert_rewrites(RemoveBroadcastExpands(), _model(text), expect=None, rewrites=0, rtol=0, atol=0)


def test_expand_stays_when_the_size_is_unknown() -> None:
    model = parse_model(
        """g (float[?,3] x, float[?,3] z, int64[2] s) => (float[?,3] y)
        { e = Expand(x, s) y = Add(e, z) }"""
    )
    assert not RemoveBroadcastExpands()(model).modified


def test_one_of_two_goes_when_both_operands_are_expanded() -> None:
    model = _model(
        """g (float[1,3] x, float[1,3] z) => (float[4,3] y) <int64[2] s = {4, 3}>
        { e = Expand(x, s) f = Expand(z, s) y = Add(e, f) }"""
    )
    expect = ["Expand", "Add"]
    assert_rewrites(RemoveBroadcastExpands(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_expand_stays_for_others_when_it_is_a_graph_output() -> None:
    model = _model(
        """g (float[1,3] x, float[4,3] z) => (float[4,3] y, float[4,3] e) <int64[2] s = {4, 3}>
        { e = Expand(x, s) y = Add(e, z) }"""
    )
    expect = ["Expand", "Add"]
    assert_rewrites(RemoveBroadcastExpands(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_subgraph_is_rewritten_when_the_expand_lies_inside() -> None:
    model = _model(
        """g (float[1,3] x, float[4,3] z, bool c) => (float[4,3] y) <int64[2] s = {4, 3}> {
            y = If (c) <
                then_branch = t () => (float[4,3] p) { e = Expand(x, s) p = Add(e, z) },
                else_branch = f () => (float[4,3] q) { q = Neg(z) }
            >
        }"""
    )
    assert_rewrites(RemoveBroadcastExpands(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

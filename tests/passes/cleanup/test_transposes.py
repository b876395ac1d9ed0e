"""`MergeTransposes`: pairs, and Transposes that only move axes of size 1."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.transposes import MergeTransposes


def _inferred(text: str, opset: int = 18) -> ir.Model:
    model = parse_model(text, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product([[0, 2, 1], [2, 0, 1], [1, 2, 0]], repeat=2))
)
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_pair_becomes_one_or_none(first: list[int], second: list[int], opset: int) -> None:
    size = ["N", "3", "4"]
    out = ",".join(size[first[axis]] for axis in second)
    cancels = [first[axis] for axis in second] == [0, 1, 2]
    model = parse_model(
        f"""g (float[N,3,4] x) => (float[{out}] y) {{
            a = Relu(x) b = Transpose<perm={first}>(a) c = Transpose<perm={second}>(b) y = Neg(c)
        }}""",
        opset=opset,
    )
    expect = ["Relu", "Neg"] if cancels else ["Relu", "Transpose", "Neg"]
    assert_rewrites(MergeTransposes(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_pair_cancels_when_the_axes_are_reversed_by_default() -> None:
    model = _inferred(
        """g (float16[N,3,4] x) => (float16[N,3,4] y)
        { a = Transpose(x) b = Transpose(a) y = Relu(b) }"""
    )
    assert_rewrites(MergeTransposes(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


def test_first_one_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (int64[N,3] x) => (int64[3,N] b, int64[N,3] y)
        { b = Transpose<perm=[1,0]>(x) c = Transpose<perm=[1,0]>(b) y = Add(c, x) }"""
    )
    expect = ["Transpose", "Add"]
    assert_rewrites(MergeTransposes(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_pair_stays_when_the_rank_is_unknown() -> None:
    model = parse_model("g (float[N,3] x) => (float[N,3] y) { a = Transpose(x) y = Transpose(a) }")
    model.graph.inputs[0].shape = None
    model.graph[0].outputs[0].shape = None
    assert not MergeTransposes()(model).modified


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize(
    ("axes", "perm", "expect"),
    [
        ([1], [0, 2, 1, 3], ["Unsqueeze"]),
        ([0, 2], [2, 1, 0, 3, 4], ["Unsqueeze"]),
        ([1], [0, 3, 1, 2], ["Transpose", "Unsqueeze"]),
        ([-1], [3, 1, 0, 2], ["Transpose", "Unsqueeze"]),
    ],
)
def test_unsqueeze_comes_last(
    axes: list[int], perm: list[int], expect: list[str], opset: int
) -> None:
    given = f"Unsqueeze<axes = {axes}>(x)" if opset < 13 else "Unsqueeze(x, axes)"
    unknown = ", ".join("ABCDE"[: len(perm)])
    model = parse_model(
        f"g (float[N,S,4] x) => (float[{unknown}] y) {{ u = {given} "
        f"y = Transpose<perm = {perm}>(u) }}",
        {"axes": np.array(axes)} if opset >= 13 else {},
        opset=opset,
        ir_version=7,
    )
    assert_rewrites(
        MergeTransposes(), model, expect=expect, rewrites=1, rtol=0, atol=0,
        sizes=({"N": 2, "S": 3}, {"N": 1, "S": 1}),
    )  # fmt: skip


def test_unsqueeze_stays_first_when_others_read_it() -> None:
    text = "g (float[N,4] x) => (float[N,A,4] u, float[A,N,4] y)"
    model = parse_model(
        f"{text} {{ u = Unsqueeze(x, axes) y = Transpose<perm = [1, 0, 2]>(u) }}",
        {"axes": np.array([1])},
    )
    assert not MergeTransposes()(model).modified


@pytest.mark.parametrize(
    ("shape", "perm", "out", "flat"),
    [
        ("N,1,4", [0, 2, 1], "N,4,1", "N,4"),
        ("1,N,4", [1, 2, 0], "N,4,1", "N,4"),
        ("N,3,1,1", [0, 2, 3, 1], "N,1,1,3", "N,3"),
    ],
)
def test_size_one_axes_become_a_reshape_when_a_flatten_follows(
    shape: str, perm: list[int], out: str, flat: str
) -> None:
    model = _inferred(
        f"""g (float[{shape}] x) => (float[{flat}] y)
        {{ a = Relu(x) b = Transpose<perm={perm}>(a) y = Flatten<axis=1>(b) }}"""
    )
    expect = ["Relu", "Reshape", "Flatten"]
    assert_rewrites(MergeTransposes(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_size_one_axes_stay_when_nothing_can_merge() -> None:
    model = _inferred(
        "g (float[N,1,4] x) => (float[N,4,1] y) { a = Transpose<perm=[0,2,1]>(x) y = Relu(a) }"
    )
    assert_rewrites(MergeTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_size_one_axes_stay_when_two_unknown_sizes_move() -> None:
    model = _inferred(
        """g (float[1,N,M] x) => (float[N,M] y)
        { b = Transpose<perm=[1,2,0]>(x) axes = Constant<value_ints=[2]>() y = Squeeze(b, axes) }"""
    )
    assert_refuses(MergeTransposes(), model, "no constant target")


def test_size_one_axes_stay_when_a_size_would_be_inferred_beside_one_that_can_be_zero() -> None:
    """`[1, -1, 0]` says the shape, but the runtime cannot infer N if M is 0."""
    model = _inferred(
        """g (float[N,1,M] x) => (float[1,N,M,1] y) <int64[1] s = {3}>
        { t = Transpose<perm=[1,0,2]>(x) y = Unsqueeze(t, s) }"""
    )
    assert_refuses(MergeTransposes(), model, "no constant target")
    assert_rewrites(
        MergeTransposes(), model, expect=["Transpose", "Unsqueeze"], rewrites=0, rtol=0, atol=0,
        sizes=[{"N": 3, "M": 0}, {"N": 0, "M": 2}],
    )  # fmt: skip


def test_size_one_axes_become_a_reshape_when_the_one_before_infers_beside_the_same_size() -> None:
    model = _inferred(
        """g (float[N,6] x) => (float[M,K,1,3] y) <int64[4] s = {0, 1, -1, 3}>
        { r = Reshape(x, s) y = Transpose<perm=[0,2,1,3]>(r) }"""
    )
    model.graph[0].outputs[0].shape = ir.Shape(["N", 1, "K", 3])
    assert_rewrites(
        MergeTransposes(), model, expect=["Reshape", "Reshape"], rewrites=1, rtol=0, atol=0
    )


def test_large_axes_stay_when_they_change_places() -> None:
    model = _inferred(
        """g (float[N,3,4] x) => (float[N,12] y)
        { b = Transpose<perm=[0,2,1]>(x) y = Flatten<axis=1>(b) }"""
    )
    assert_rewrites(MergeTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize("batch", ["N", "2"])
def test_transpose_of_joined_axes_becomes_one(batch: str) -> None:
    joined = "?" if batch == "N" else "6"
    model = parse_model(
        f"""g (float[{batch},3,5,4] x) => (float[{batch},3,4,5] y)
        <int64[3] j = {{-1, 5, 4}}, int64[4] k = {{-1, 3, 4, 5}},
         float[{joined},5,4] a, float[{joined},4,5] b, float[{batch},3,4,5] c>
        {{ a = Reshape(x, j) b = Transpose<perm=[0,2,1]>(a) c = Reshape(b, k) y = Relu(c) }}"""
    )
    expect = ["Transpose", "Relu"]
    assert_rewrites(MergeTransposes(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_transpose_of_joined_axes_stays_when_they_come_back_otherwise() -> None:
    model = _inferred(
        """g (float[2,3,5,4] x) => (float[3,2,4,5] y)
        <int64[3] j = {-1, 5, 4}, int64[4] k = {3, 2, 4, 5}>
        { a = Reshape(x, j) b = Transpose<perm=[0,2,1]>(a) y = Reshape(b, k) }"""
    )
    assert_rewrites(MergeTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_transpose_stays_when_two_axes_are_joined() -> None:
    model = _inferred(
        """g (float[2,3,5,4] x) => (float[5,4,2,3] y)
        <int64[2] j = {6, 20}, int64[4] k = {5, 4, 2, 3}>
        { a = Reshape(x, j) b = Transpose<perm=[1,0]>(a) y = Reshape(b, k) }"""
    )
    assert_rewrites(MergeTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_subgraph_is_rewritten_when_the_pair_lies_inside() -> None:
    model = parse_model(
        """g (float[N,3] x, bool c) => (float[N,3] y) {
            y = If (c) <
                then_branch = t () => (float[N,3] p)
                { u = Transpose<perm=[1,0]>(x) v = Transpose<perm=[1,0]>(u) p = Relu(v) },
                else_branch = e () => (float[N,3] q) { q = Neg(x) }
            >
        }"""
    )
    assert_rewrites(MergeTransposes(), model, expect=["If"], rewrites=1, rtol=0, atol=0)
    assert op_types(model) == ["If"]

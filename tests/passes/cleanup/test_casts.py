"""`MergeCasts`: which pairs lose nothing, round trips that do, and casts of indices."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.casts import MergeCasts, holds

_NUMBER = {"float": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "double": 11}


def _pair(first: str, middle: str, last: str, opset: int = 18) -> ir.Model:
    model = parse_model(
        f"""g ({first}[N] x) => ({last}[N] y) {{
            a = Identity(x) b = Cast<to={_NUMBER[middle]}>(a) c = Cast<to={_NUMBER[last]}>(b)
            y = Identity(c)
        }}""",
        opset=opset,
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize(
    ("first", "middle", "last"),
    [
        ("float16", "float", "int32"),
        ("float", "double", "float16"),
        ("bool", "int64", "float"),
        ("uint8", "int32", "float"),
        ("uint8", "float16", "int64"),
        ("int32", "int64", "bool"),
        ("int32", "double", "int64"),
    ],
)
@pytest.mark.parametrize("opset", [9, 13, 19])
def test_pair_becomes_one_when_the_first_cast_loses_nothing(
    first: str, middle: str, last: str, opset: int
) -> None:
    expect = ["Identity", "Cast", "Identity"]
    model = _pair(first, middle, last, opset)
    assert_rewrites(MergeCasts(), model, expect=expect, rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("first", "middle"),
    [("bool", "int32"), ("float16", "float"), ("int32", "int64"), ("float", "double")],
)
def test_pair_goes_when_the_type_comes_back(first: str, middle: str) -> None:
    expect = ["Identity", "Identity"]
    model = _pair(first, middle, first)
    assert_rewrites(MergeCasts(), model, expect=expect, rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("first", "middle"),
    [("float", "float16"), ("int64", "int32"), ("int64", "float"), ("float", "int64")],
)
def test_round_trip_stays_when_it_changes_values(first: str, middle: str) -> None:
    assert_refuses(MergeCasts(), _pair(first, middle, first), "values change")


def test_pair_stays_without_a_word_when_truncation_is_meant() -> None:
    result = MergeCasts()(_pair("float", "int64", "double"))
    assert not result.modified
    assert not result.refusals


def test_pair_stays_when_it_goes_through_strings() -> None:
    model = parse_model("g (float[N] x) => (float[N] y) { a = Cast<to=8>(x) y = Cast<to=1>(a) }")
    assert_refuses(MergeCasts(), model, "strings")


def test_bool_holds_only_itself() -> None:
    assert holds(ir.DataType.BOOL, ir.DataType.BOOL)
    assert not holds(ir.DataType.BOOL, ir.DataType.UINT8)
    assert not holds(ir.DataType.INT8, ir.DataType.UINT8)


@pytest.mark.parametrize("moved", ["", "m = Gather(s, i)", "m = Concat<axis=0>(s, s)"])
def test_narrowing_is_merged_when_the_values_are_dimensions(moved: str) -> None:
    value = "m" if moved else "s"
    size = {"": 2, "m = Gather(s, i)": 1}.get(moved, 4)
    model = parse_model(
        f"""g (float[N,3] x) => (int64[{size}] y) <int64[1] i = {{0}}>
        {{ s = Shape(x) {moved} a = Cast<to=6>({value}) b = Cast<to=7>(a) y = Add(b, b) }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(MergeCasts(), model, expect=None, rewrites=1, rtol=0, atol=0)


def test_narrowing_stays_when_the_dimensions_are_computed_with() -> None:
    model = parse_model(
        """g (float[N,3] x) => (int64[2] y)
        { s = Shape(x) p = Mul(s, s) a = Cast<to=6>(p) y = Cast<to=7>(a) }"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_refuses(MergeCasts(), model, "values change")


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
def test_index_is_used_as_it_is_when_it_was_widened(op: str) -> None:
    model = parse_model(
        f"""g (float[4,2] x, int32[3,2] i) => (float y)
        {{ w = Cast<to=7>(i) y = {op}<axis=0>(x, w) }}"""
    )
    model.graph.outputs[0].shape = ir.Shape([3, 2, 2] if op == "Gather" else [3, 2])
    assert_rewrites(MergeCasts(), model, expect=[op], rewrites=1, rtol=0, atol=0)


def test_index_stays_when_it_was_narrowed() -> None:
    model = parse_model(
        "g (float[4] x, int64[3] i) => (float[3] y) { w = Cast<to=6>(i) y = Gather(x, w) }"
    )
    assert_rewrites(MergeCasts(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_middle_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (float16[N] x) => (float[N] b, double[N] y)
        { b = Cast<to=1>(x) y = Cast<to=11>(b) }"""
    )
    expect = ["Cast", "Cast"]
    assert_rewrites(MergeCasts(), model, expect=expect, rewrites=1, rtol=0, atol=0)


def test_subgraph_is_rewritten_when_the_pair_lies_inside() -> None:
    model = parse_model(
        """g (float16[N] x, bool c) => (float16[N] y) {
            y = If (c) <
                then_branch = t () => (float16[N] p)
                { u = Cast<to=1>(x) v = Cast<to=10>(u) p = Relu(v) },
                else_branch = e () => (float16[N] q) { q = Neg(x) }
            >
        }"""
    )
    assert_rewrites(MergeCasts(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

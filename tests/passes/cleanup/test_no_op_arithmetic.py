"""`RemoveNoOpArithmetic`: neutral operands, and constants that are gathered."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model, run

from onnxopt.passes.cleanup.no_op_arithmetic import RemoveNoOpArithmetic


def _model(
    body: str, *, x: str = "float[N,3]", y: str | None = None, opset: int = 18, **weights: Any
) -> ir.Model:
    """`a = Abs(x)`, the body from a to b, `y = Neg(b)`."""
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.asarray(value, np.float32)
        for name, value in weights.items()
    }
    model = parse_model(
        f"g ({x} x) => ({y or x} y) {{ a = Abs(x) {body} y = Neg(b) }}", arrays, opset=opset
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


def _assert_goes(model: ir.Model) -> None:
    assert_rewrites(
        RemoveNoOpArithmetic(), model, expect=["Abs", "Neg"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ("b = Add(a, c)", 0),
        ("b = Add(c, a)", 0),
        ("b = Sub(a, c)", 0),
        ("b = Mul(a, c)", 1),
        ("b = Mul(c, a)", 1),
        ("b = Div(a, c)", 1),
        ("b = Pow(a, c)", 1),
        ("b = Max(a, c)", -np.inf),
        ("b = Min(c, a)", np.inf),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3)])
@pytest.mark.parametrize("opset", [8, 13, 21])
def test_operator_goes_when_an_operand_is_neutral(
    body: str, number: float, shape: tuple[int, ...], opset: int
) -> None:
    _assert_goes(_model(body, opset=opset, c=np.full(shape, number, np.float32)))


@pytest.mark.parametrize("dtype", ["float16", "double", "int32", "int64"])
def test_operator_goes_when_the_type_is_another(dtype: str) -> None:
    ones = np.ones(1, "float64" if dtype == "double" else dtype)
    _assert_goes(_model("b = Mul(a, c)", x=f"{dtype}[N,3]", c=ones))


def test_maximum_goes_when_it_is_the_smallest_integer() -> None:
    smallest = np.array(np.iinfo(np.int64).min)
    _assert_goes(_model("b = Max(a, c)", x="int64[N,3]", c=smallest))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1), (2, 3)])
def test_operator_stays_when_its_operand_broadcasts(shape: tuple[int, ...]) -> None:
    y = "float[1,N,3]" if len(shape) == 3 else "float[2,3]"
    model = _model("b = Add(a, c)", x="float[N,3]", y=y, c=np.zeros(shape, np.float32))
    assert_refuses(RemoveNoOpArithmetic(), model, "larger shape")


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ("b = Sub(c, a)", 0),
        ("b = Div(c, a)", 1),
        ("b = Mul(a, c)", 0),
        ("b = Pow(c, a)", 1),
        ("b = Max(a, c)", np.finfo(np.float32).min),
    ],
)
def test_operator_stays_when_it_is_not_neutral(body: str, number: float) -> None:
    model = _model(body, c=number)
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_operator_stays_when_the_constant_can_be_fed() -> None:
    model = parse_model(
        "g (float[N] x, float c) => (float[N] y) <float c = {0.0}> { y = Add(x, c) }"
    )
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=["Add"], rewrites=0, rtol=0, atol=0)


def test_operator_goes_when_the_neutral_operand_is_filled_at_run_time() -> None:
    model = parse_model(
        """g (float[N,S] x) => (float[N,S] y) <float one = {1.0}, float[N,S] a, float[N,S] f>
        { a = Abs(x) s = Shape(x) f = Expand(one, s) b = Mul(a, f) y = Neg(b) }"""
    )
    assert_rewrites(
        RemoveNoOpArithmetic(),
        model,
        expect=["Abs", "Neg"],
        rewrites=1,
        rtol=0,
        atol=0,
        sizes=[{"N": 2, "S": 3}],
    )


@pytest.mark.parametrize(
    ("body", "number"),
    [("d = And(a, c)", True), ("d = And(c, a)", True), ("d = Or(a, c)", False)],
)
def test_logic_goes_when_an_operand_is_neutral(body: str, number: bool) -> None:
    model = parse_model(
        f"g (bool[N,3] x) => (bool[N,3] y) <bool[N,3] a> {{ a = Not(x) {body} y = Not(d) }}",
        {"c": np.full((1, 3), number)},
    )
    assert_rewrites(
        RemoveNoOpArithmetic(), model, expect=["Not", "Not"], rewrites=1, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("body", "condition"),
    [
        ("b = Where(c, a, o)", True),
        ("b = Where(c, o, a)", False),
        ("b = Where(c, a, a)", np.array([[True, False, True]])),
    ],
)
def test_where_goes_when_one_branch_is_always_taken(body: str, condition: Any) -> None:
    weights = {"c": np.asarray(condition)} | ({"o": np.zeros(3, np.float32)} if "o" in body else {})
    _assert_goes(_model(body, **weights))


def test_where_goes_when_it_copies_its_condition() -> None:
    model = parse_model(
        "g (bool[N] x) => (bool[N] y) <bool[N] a> { a = Not(x) b = Where(a, t, f) y = Not(b) }",
        {"t": np.array(True), "f": np.array([False])},
    )
    # ONNX Runtime has no Where for booleans, so there is nothing to compare with.
    RemoveNoOpArithmetic()(model)
    assert op_types(model) == ["Not", "Not"]


def test_where_stays_when_the_other_branch_is_larger() -> None:
    model = _model(
        "b = Where(c, a, o)",
        x="float[3]",
        y="float[2,3]",
        c=np.array(True),
        o=np.zeros((2, 3), np.float32),
    )
    assert_refuses(RemoveNoOpArithmetic(), model, "larger shape")


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_clip_goes_when_it_has_no_bounds(opset: int) -> None:
    _assert_goes(_model("b = Clip(a)", opset=opset))


def test_clip_goes_when_its_bounds_are_infinite() -> None:
    _assert_goes(_model("b = Clip(a, lo, hi)", lo=-np.inf, hi=np.inf))


@pytest.mark.parametrize(("lo", "hi"), [(0.0, np.inf), (-np.inf, 6.0)])
def test_clip_stays_when_one_bound_is_finite(lo: float, hi: float) -> None:
    model = _model("b = Clip(a, lo, hi)", lo=lo, hi=hi)
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=None, rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize("body", ["m = Add(a, c) b = Add(m, d)", "m = Mul(c, a) b = Mul(d, m)"])
@pytest.mark.parametrize("dtype", ["float", "float16", "double", "int32", "int64"])
def test_constants_are_gathered_when_they_follow_each_other(body: str, dtype: str) -> None:
    numpy_dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    c, d = np.array([2, 3, 4], numpy_dtype), np.array(5, numpy_dtype)
    model = _model(body, x=f"{dtype}[N,3]", c=c, d=d)
    operator = "Add" if "Add" in body else "Mul"
    exact = dtype.startswith("int")
    rtol = 0.0 if exact else 2e-3 if dtype == "float16" else 1e-6
    expect = ["Abs", operator, "Neg"]
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=expect, rewrites=1, rtol=rtol, atol=0)


def test_floats_stay_when_reassociation_is_off() -> None:
    model = _model("m = Mul(a, c) b = Mul(m, d)", c=2, d=3)
    result = RemoveNoOpArithmetic(reassociate=False)(model)
    assert not result.modified
    assert str(RemoveNoOpArithmetic(reassociate=False)).endswith("{reassociate=false}")


@pytest.mark.parametrize(
    ("body", "c", "d"),
    [
        ("m = Add(a, c) b = Add(m, d)", 1e6, -1e6 + 1),
        ("m = Mul(a, c) b = Mul(m, d)", 1e30, 1e30),
        ("m = Mul(a, c) b = Mul(m, d)", 1e-30, 1e-30),
    ],
)
def test_constants_stay_when_they_would_lose_precision(body: str, c: float, d: float) -> None:
    assert_refuses(RemoveNoOpArithmetic(), _model(body, c=c, d=d), "cancel, overflow or underflow")


def test_constants_stay_when_together_they_are_larger() -> None:
    c, d = np.ones((3, 1), np.float32) * 2, np.ones((1, 4), np.float32) * 2
    model = _model("m = Mul(a, c) b = Mul(m, d)", x="float[N,3,4]", c=c, d=d)
    assert_refuses(RemoveNoOpArithmetic(), model, "larger than each")


def test_constants_stay_when_the_middle_is_a_graph_output() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y, float[N] m) { m = Add(x, c) y = Add(m, c) }",
        {"c": np.array(2, np.float32)},
    )
    assert_refuses(RemoveNoOpArithmetic(), model, "other uses")


def test_shared_constant_is_not_overwritten_when_constants_are_gathered() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y, float[N] z)
        { m = Mul(x, c) y = Mul(m, c) z = Add(x, c) }""",
        {"c": np.array(3, np.float32)},
    )
    assert_rewrites(
        RemoveNoOpArithmetic(), model, expect=["Mul", "Add"], rewrites=1, rtol=1e-6, atol=0
    )
    assert float(model.graph.initializers["c"].const_value.numpy()) == 3


def test_subgraph_is_cleaned_when_arithmetic_lies_inside() -> None:
    model = parse_model(
        """g (float[N] x, bool c) => (float[N] y) <float zero = {0.0}, float two = {2.0}> {
            y = If (c) <
                then_branch = t () => (float[N] p) { u = Add(x, zero) p = Relu(u) },
                else_branch = e () => (float[N] q) { v = Mul(x, two) q = Mul(v, two) }
            >
        }"""
    )
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=["If"], rewrites=2, rtol=0, atol=0)


def test_old_broadcast_goes_when_the_second_operand_is_neutral() -> None:
    model = parse_model(
        "g (float[N,3] x) => (float[N,3] y) { a = Abs(x) y = Add<broadcast=1>(a, c) }",
        {"c": np.zeros(3, np.float32)},
        opset=6,
    )
    RemoveNoOpArithmetic()(model)
    assert op_types(model) == ["Abs"]


LAYER_NORM = """g (float[N, 8] x) => (float[N, 8] y) {
    m = ReduceMean <axes = [-1]> (x)
    d = Sub(x, m)
    two = Constant <value_float = 2.0> ()
    p = Pow(d, two)
    v = ReduceMean <axes = [-1]> (p)
    eps = Constant <value_float = 0.00001> ()
    e = Add(v, eps)
    s = Sqrt(e)
    q = Div(d, s)
    a = Mul(q, scale)
    y = Add(a, bias)
}"""


@pytest.mark.parametrize(("opset", "kept"), [(13, True), (17, False)])
def test_neutral_scale_and_bias_stay_when_runtime_needs_them_to_fuse(
    opset: int, kept: bool
) -> None:
    weights = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    model = parse_model(LAYER_NORM, weights, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    result = RemoveNoOpArithmetic()(model)
    assert ("Mul" in op_types(model)) == kept
    assert any("LayerNormalization" in r.reason for r in result.refusals) == kept


@pytest.mark.parametrize("dtype", ["float", "int64", "int32"])
def test_where_stays_when_ones_and_zeros_are_numbers(dtype: str) -> None:
    """Where(c, 1, 0) is a Cast of its condition and no copy of it."""
    model = parse_model(
        f"""g (bool[N] x) => ({dtype}[N] y) <bool[N] a, {dtype}[N] t, {dtype}[N] f> {{
            a = Not(x) s = Shape(a) t = ConstantOfShape <value = {dtype}[1] {{1}}> (s)
            f = ConstantOfShape <value = {dtype}[1] {{0}}> (s) y = Where(a, t, f)
        }}"""
    )
    assert_rewrites(RemoveNoOpArithmetic(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_where_goes_when_booleans_are_filled_in_at_run_time() -> None:
    model = parse_model(
        """g (bool[N] x) => (bool[N] y) <bool[N] a, bool[N] t, bool[N] f> {
            a = Not(x) s = Shape(a) t = ConstantOfShape <value = bool[1] {1}> (s)
            f = ConstantOfShape <value = bool[1] {0}> (s) b = Where(a, t, f) y = Not(b)
        }"""
    )
    RemoveNoOpArithmetic()(model)
    assert op_types(model) == ["Not", "Not"]


@pytest.mark.parametrize("attributes", ["axis = 1, broadcast = 1", "broadcast = 1"])
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_stay_when_the_inner_one_broadcasts_the_old_way(op: str, attributes: str) -> None:
    model = parse_model(
        f"""g (float[2,3,4,3] x) => (float[2,3,4,3] y)
        {{ a = {op} <{attributes}> (x, c) y = {op}(a, d) }}""",
        {"c": np.full(3, 2, np.float32), "d": np.full((2, 3, 4, 3), 3, np.float32)},
        opset=6,
    )
    assert not RemoveNoOpArithmetic()(model).modified


def test_negative_zero_stays_when_a_zero_is_no_longer_added() -> None:
    model = parse_model(
        "g (float[2] x) => (float[2] y) <float[2] a, float z = {0.0}> "
        "{ a = Neg(x) b = Add(a, z) y = Reciprocal(b) }"
    )
    RemoveNoOpArithmetic()(model)
    (y,) = run(model, {"x": np.array([0.0, -0.0], np.float32)})
    np.testing.assert_array_equal(y, [-np.inf, np.inf])

"""FuseRMSNorm: the operator of opset 23, the spelling for older ones, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from numpy.typing import NDArray

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.fusion.rms_norm import FuseRMSNorm

RUNTIME = FuseRMSNorm(operators=("SimplifiedLayerNormalization",))
RNG = np.random.default_rng(0)


def normal(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(dtype)


QUOTIENTS = [
    "s = Sqrt(w) n = Div(x, s)",
    "s = Sqrt(w) r = Reciprocal(s) n = Mul(x, r)",
    "s = Sqrt(w) r = Div(one, s) n = Mul(r, x)",
    "r = Pow(w, mhalf) n = Mul(x, r)",
]
SQUARES = ["Pow(x, two)", "Mul(x, x)"]


def model_of(
    square: str,
    quotient: str,
    opset: int,
    *,
    tail: str = "y = Mul(g, n)",
    name: str = "float",
    output: str = "",
    axes: str = "-1",
    shape: str = "N,3,8",
    epsilon: float | NDArray[Any] = 1e-5,
) -> ir.Model:
    mean = f"ReduceMean <axes = [{axes}]> (q)" if opset < 18 else "ReduceMean(q, axes)"
    body = f"q = {square} v = {mean} w = Add(v, eps) {quotient} {tail}"
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    numbers = {"eps": epsilon, "two": 2.0, "one": 1.0, "mhalf": -0.5}
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[name]
    weights = {key: np.array(number, dtype) for key, number in numbers.items() if key in words}
    weights |= {"g": normal(8, dtype=dtype)} if "g" in words else {}
    weights |= {"axes": np.array([int(axes)])} if opset >= 18 else {}
    model = parse_model(
        f"g ({name}[{shape}] x) => ({name}[{shape}] y{output}) {{ {body} }}",
        weights,
        opset=opset,
        ir_version=11 if opset >= 23 else 10,
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_one_node_remains_when_the_opset_has_the_operator(square: str, quotient: str) -> None:
    model = model_of(square, quotient, 23)
    assert_rewrites(
        FuseRMSNorm(), model, expect=["RMSNormalization"], rewrites=2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("square", "quotient"),
    [(s, q) for s in SQUARES for q in QUOTIENTS if (s, q) != (SQUARES[0], QUOTIENTS[0])],
)
@pytest.mark.parametrize("opset", [13, 17, 18])
def test_parts_are_respelled_when_the_opset_is_older(
    square: str, quotient: str, opset: int
) -> None:
    model = model_of(square, quotient, opset)
    expect = ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]
    assert_rewrites(FuseRMSNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 18])
def test_parts_stay_silently_when_they_are_spelled_that_way(opset: int) -> None:
    result = FuseRMSNorm()(model_of(SQUARES[0], QUOTIENTS[0], opset))
    assert not result.modified
    assert not result.refusals


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize("opset", [13, 17, 18])
def test_one_node_of_the_runtime_remains_when_that_may_be_used(
    square: str, quotient: str, opset: int
) -> None:
    model = model_of(square, quotient, opset)
    expect = ["SimplifiedLayerNormalization"]
    assert_rewrites(RUNTIME, model, expect=expect, rewrites=2, rtol=1e-4, atol=1e-5, check=False)


def test_unknown_operators_are_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="'RMS' is none of SimplifiedLayerNormalization"):
        FuseRMSNorm(operators=("RMS",))


@pytest.mark.parametrize("opset", [18, 23])
def test_middle_stays_when_it_is_a_graph_output(opset: int) -> None:
    model = model_of(SQUARES[1], QUOTIENTS[1], opset, output=", float[N,3,1] r")
    assert_refuses(FuseRMSNorm(), model, "other users")


def test_scale_stays_outside_when_the_normalized_value_is_an_output() -> None:
    model = model_of(SQUARES[0], QUOTIENTS[0], 23, output=", float[N,3,8] n")
    expect = ["RMSNormalization", "Mul"]
    assert_rewrites(FuseRMSNorm(), model, expect=expect, rewrites=1, rtol=1e-4, atol=1e-5)


def test_other_axes_stay() -> None:
    assert not FuseRMSNorm()(model_of(SQUARES[0], QUOTIENTS[1], 23, axes="1")).modified


def test_pooled_mean_is_fused_only_when_the_opset_has_the_operator() -> None:
    """ONNX Runtime finds no mean of squares in a pooling: the older spelling is of no use."""
    for opset, expect in ((17, None), (23, ["RMSNormalization"])):
        model = model_of(SQUARES[0], QUOTIENTS[1], opset)
        for node in model.graph:
            if node.op_type == "ReduceMean":
                node.op_type = "GlobalAveragePool"
                node.attributes.clear()
                node.resize_inputs(1)
        before = [node.op_type for node in model.graph]
        assert_rewrites(
            FuseRMSNorm(), model, expect=expect or before, rewrites=2 if expect else 0,
            rtol=1e-4, atol=1e-5, check=False,
        )  # fmt: skip


def test_unknown_size_is_refused() -> None:
    model = model_of(SQUARES[0], QUOTIENTS[0], 23, tail="y = Relu(n)", shape="N,3,K")
    assert_refuses(FuseRMSNorm(), model, "size is not known")


@pytest.mark.parametrize(("name", "tolerance"), [("float16", 2e-2), ("double", 1e-6)])
def test_other_float_types_are_fused(name: str, tolerance: float) -> None:
    model = model_of(SQUARES[0], QUOTIENTS[0], 23, name=name)
    assert_rewrites(
        FuseRMSNorm(), model, expect=["RMSNormalization"], rewrites=2, rtol=tolerance,
        atol=tolerance,
    )  # fmt: skip


def test_subgraph_is_rewritten_and_the_scale_may_be_shared() -> None:
    model = parse_model(
        """g (float[N,8] x, float[8] g, bool k) => (float[N,8] y)
        <float eps = {0.00001}, float two = {2}, int64[1] axes = {-1}> {
            y = If (k) <
                then_branch = t () => (float[N,8] p) {
                    q = Pow(x, two) v = ReduceMean(q, axes) w = Add(v, eps) s = Sqrt(w)
                    n = Div(x, s) p = Mul(n, g)
                },
                else_branch = e () => (float[N,8] z) { z = Mul(x, g) }
            >
        }""",
        opset=23,
        ir_version=11,
    )
    assert_rewrites(FuseRMSNorm(), model, expect=["If"], rewrites=2, rtol=1e-4, atol=1e-5)


def test_casts_around_it_are_taken_in() -> None:
    model = parse_model(
        """g (float16[N,8] h) => (float16[N,8] y)
        <float eps = {0.00001}, float two = {2}, int64[1] axes = {-1}> {
            x = Cast <to = 1> (h) q = Pow(x, two) v = ReduceMean(q, axes) w = Add(v, eps)
            s = Sqrt(w) r = Reciprocal(s) n = Mul(x, r) c = Cast <to = 10> (n) y = Mul(g, c)
        }""",
        {"g": normal(8, dtype=np.float16)},
        opset=23,
        ir_version=11,
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(
        FuseRMSNorm(), model, expect=["RMSNormalization"], rewrites=3, rtol=1e-2, atol=1e-2
    )


NO_EPSILON = [
    "q = Mul(x, x) w = ReduceMean(q, axes) s = Sqrt(w) y = Div(x, s)",
    "q = Pow(x, two) w = ReduceMean(q, axes) s = Sqrt(w) y = Div(x, s)",
    "q = Pow(x, two) w = ReduceMean(q, axes) s = Sqrt(w) r = Reciprocal(s) y = Mul(x, r)",
]


def without_epsilon(body: str, opset: int) -> ir.Model:
    model = parse_model(
        f"g (float[N,8] x) => (float[N,8] y) <float two = {{2}}, int64[1] axes = {{-1}}> "
        f"{{ {body} }}",
        opset=opset,
        ir_version=11 if opset >= 23 else 10,
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("body", NO_EPSILON)
def test_parts_stay_without_epsilon_when_the_opset_is_older(body: str) -> None:
    """An Add of zero would be removed as a no-op and come back forever."""
    assert_refuses(FuseRMSNorm(), without_epsilon(body, 18), "no epsilon")


@pytest.mark.parametrize("body", NO_EPSILON)
def test_one_node_remains_without_epsilon_when_the_opset_has_the_operator(body: str) -> None:
    model = without_epsilon(body, 23)
    assert_rewrites(
        FuseRMSNorm(), model, expect=["RMSNormalization"], rewrites=1, rtol=1e-4, atol=1e-5
    )


def test_parts_stay_when_epsilon_is_zero_in_float16() -> None:
    model = model_of(SQUARES[1], QUOTIENTS[1], 18, name="float16", epsilon=1e-8)
    assert_refuses(FuseRMSNorm(), model, "no epsilon")


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("large", ["eps", "one", "two", "mhalf"])
def test_nothing_is_rewritten_when_a_number_adds_an_axis(large: str, opset: int) -> None:
    """Shapes are left out: what matters is the one of the operand beside the number."""
    numbers = {"eps": 1e-5, "one": 1.0, "two": 2.0, "mhalf": -0.5}
    square = "q = Mul(x, x)" if large != "two" else "q = Pow(x, two)"
    quotient = "r = Pow(w, mhalf)" if large == "mhalf" else "s = Sqrt(w) r = Div(one, s)"
    weights = {
        key: np.full((1, 1, 1) if key == large else (), number, np.float32)
        for key, number in numbers.items()
        if f"{key})" in f"{square}{quotient}eps)" or f"({key}," in quotient
    }
    model = parse_model(
        f"""g (float[N,8] x) => (float[1,N,8] y) <int64[1] axes = {{-1}}> {{
            {square} v = ReduceMean(q, axes) w = Add(v, eps) {quotient} y = Mul(x, r)
        }}""",
        weights,
        opset=opset,
        ir_version=11 if opset >= 23 else 10,
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(FuseRMSNorm(), model, expect=None, rewrites=0, rtol=0, atol=0)

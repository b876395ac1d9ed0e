"""RemoveNanGuards: what is provably no NaN, and each thing that might be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup.nan_guards import RemoveNanGuards

_LOWEST = float(np.finfo(np.float32).min)


def _attention(masking: str, weights: dict[str, Any] | None = None, inputs: str = "") -> ir.Model:
    """Attention probabilities of q and k, both [N,4,8], with a guard around the Softmax."""
    return parse_model(
        f"""g (float[N,4,8] q, float[N,4,8] k{inputs}) => (float[N,4,4] y) {{
            zero = Constant<value_float = 0.0>()
            kt = Transpose<perm = [0, 2, 1]>(k) scores = MatMul(q, kt)
            {masking}
            s = Softmax<axis = -1>(z) nan = IsNaN(s) y = Where(nan, zero, s)
        }}""",
        weights,
    )


def _tril(fill: float, dtype: type = np.float32) -> np.ndarray:
    return np.where(np.tril(np.ones((4, 4), bool)), 0, fill).astype(dtype)


@pytest.mark.parametrize(
    ("masking", "weights", "inputs"),
    [
        ("z = Identity(scores)", {}, ""),
        ("z = Mul(scores, c)", {"c": np.array(0.125, np.float32)}, ""),
        ("z = Div(scores, c)", {"c": np.array(8, np.float32)}, ""),
        ("z = Add(scores, c)", {"c": _tril(_LOWEST)}, ""),
        ("z = Add(c, scores)", {"c": _tril(-1e9)}, ""),
        ("z = Add(scores, c)", {"c": _tril(-np.inf)}, ""),
        ("z = Where(t, scores, c)", {"c": np.array(-np.inf, np.float32), "t": _tril(1) == 0}, ""),
        (
            "w = Where(m, c0, c) z = Add(scores, w)",
            {"c0": np.array(0, np.float32), "c": np.array(_LOWEST, np.float32)},
            ", bool[N,1,4] m",
        ),
        ("z = Where(m, scores, c)", {"c": np.array(_LOWEST, np.float32)}, ", bool[N,1,4] m"),
        (
            "f = Cast<to = 1>(m) n = Sub(one, f) w = Mul(n, c) z = Add(scores, w)",
            {"one": np.array(1, np.float32), "c": np.array(-10000, np.float32)},
            ", bool[N,1,4] m",
        ),
    ],
    ids=[
        *("none", "scaled", "divided", "lowest", "minus-1e9", "causal-inf", "causal-where"),
        *("chosen", "filled", "cast"),
    ],
)
def test_guard_goes_when_every_row_has_a_finite_score(
    masking: str, weights: dict[str, Any], inputs: str
) -> None:
    model = _attention(masking, weights, inputs)
    assert_rewrites(
        RemoveNanGuards(), model, expect=None, rewrites={"nan-guard": 1}, rtol=0, atol=0
    )
    assert "IsNaN" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize(
    ("masking", "weights", "inputs", "reason"),
    [
        (
            "w = Where(m, c0, c) z = Add(scores, w)",
            {"c0": np.array(0, np.float32), "c": np.array(-np.inf, np.float32)},
            ", bool[N,1,4] m",
            "a mask contains -inf",
        ),
        (
            "z = Where(m, scores, c)",
            {"c": np.array(-np.inf, np.float32)},
            ", bool[N,1,4] m",
            "a mask contains -inf",
        ),
        ("z = Add(scores, c)", {"c": np.full((4, 4), -np.inf, np.float32)}, "", "contains -inf"),
        ("z = Add(scores, c)", {"c": np.full((4, 4), np.nan, np.float32)}, "", "contains NaN"),
        ("z = Add(scores, m)", {}, ", float[N,1,4] m", "a graph input"),
        (
            "w = Add(c, c) z = Add(scores, w)",
            {"c": _tril(_LOWEST)},
            "",
            "may overflow FLOAT",
        ),
        ("z = Log(scores)", {}, "", "Log may give"),
        (
            "l = Clip(scores, c) z = Add(l, c)",
            {"c": np.array(-_LOWEST, np.float32)},
            "",
            "may overflow FLOAT",
        ),
        ("z = Div(scores, k2)", {}, ", float[N,4,4] k2", "may be zero"),
        ("z = my.Op(scores)", {}, "", "my::Op may give"),
    ],
)
def test_reason_is_given_when_a_row_may_be_nan(
    masking: str, weights: dict[str, Any], inputs: str, reason: str
) -> None:
    assert_refuses(RemoveNanGuards(), _attention(masking, weights, inputs), reason)


def test_scores_are_not_trusted_when_strict() -> None:
    assert_refuses(
        RemoveNanGuards(strict=True),
        _attention("z = Identity(scores)"),
        "the result of MatMul may overflow",
    )


def test_lowest_float16_as_a_mask_is_refused_and_minus_10000_is_not() -> None:
    text = """g (float16[N,4,8] q, float16[N,8,4] k) => (float16[N,4,4] y) {
        zero = Constant<value = float16 {0}>()
        scores = MatMul(q, k) z = Add(scores, c)
        s = Softmax<axis = -1>(z) nan = IsNaN(s) y = Where(nan, zero, s)
    }"""
    lowest = parse_model(text, {"c": _tril(-65504, np.float16)})
    assert_refuses(RemoveNanGuards(), lowest, "may overflow FLOAT16")
    assert RemoveNanGuards()(parse_model(text, {"c": _tril(-10000, np.float16)})).modified


@pytest.mark.parametrize(
    ("body", "dtype"),
    [
        ("s = Cast<to = 1>(x)", "int64"),
        ("f = Cast<to = 1>(x) s = Sigmoid(f)", "int32"),
        ("f = Cast<to = 1>(x) g = Add(f, f) s = Tanh(g)", "bool"),
        ("s = Where(x, one, one)", "bool"),
        ("f = Cast<to = 1>(x) s = Clip(f, one, one)", "int8"),
        ("f = Cast<to = 1>(x) s = Softmax(f)", "bool"),
    ],
)
def test_guard_goes_when_bounds_follow_from_integers_even_if_strict(body: str, dtype: str) -> None:
    model = parse_model(
        f"""g ({dtype}[N,3] x) => (float[N,3] y) {{
            one = Constant<value_float = 1.0>() {body} nan = IsNaN(s) y = Where(nan, one, s)
        }}"""
    )
    assert_rewrites(RemoveNanGuards(strict=True), model, expect=None, rewrites=1, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Identity"])
def test_guard_stays_when_the_operator_hands_on_a_nan(op: str) -> None:
    model = parse_model(
        f"""g (float[N] x) => (float[N] y) {{
            zero = Constant<value_float = 0.0>() s = {op}(x) nan = IsNaN(s) y = Where(nan, zero, s)
        }}"""
    )
    assert_refuses(RemoveNanGuards(), model, "a graph input")


def test_guard_outside_of_a_softmax_stays_when_a_product_might_overflow() -> None:
    model = parse_model(
        """g (float[N,4] x) => (float[N,4] y) {
            zero = Constant<value_float = 0.0>()
            s = MatMul(x, w) nan = IsNaN(s) y = Where(nan, zero, s)
        }""",
        {"w": np.ones((4, 4), np.float32)},
    )
    assert_refuses(RemoveNanGuards(), model, "MatMul may overflow")


def test_negated_guard_goes_too() -> None:
    model = _attention("z = Identity(scores)")
    where = model.graph[-1]
    where_inputs = list(where.inputs)
    negation = ir.node("Not", [where_inputs[0]])
    model.graph.insert_before(where, negation)
    for index, value in enumerate([negation.outputs[0], where_inputs[2], where_inputs[1]]):
        where.replace_input_with(index, value)
    assert_rewrites(
        RemoveNanGuards(), model, expect=None, rewrites={"negated-nan-guard": 1}, rtol=0, atol=0
    )


def test_guard_stays_when_the_fallback_enlarges_the_result() -> None:
    model = parse_model(
        """g (bool[1,3] x) => (float[2,3] y) {
            s = Cast<to = 1>(x) nan = IsNaN(s) y = Where(nan, c, s)
        }""",
        {"c": np.ones((2, 3), np.float32)},
    )
    assert_refuses(RemoveNanGuards(), model, "enlarge")


def test_softmax_stays_a_graph_output_when_it_is_one() -> None:
    model = parse_model(
        """g (bool[N,3] x) => (float[N,3] y, float[N,3] s) {
            zero = Constant<value_float = 0.0>()
            f = Cast<to = 1>(x) s = Softmax(f) nan = IsNaN(s) y = Where(nan, zero, s)
        }"""
    )
    assert_rewrites(RemoveNanGuards(), model, expect=None, rewrites=1, rtol=0, atol=0)


def test_guard_in_a_branch_goes() -> None:
    model = parse_model(
        """g (bool[N,3] x, bool c) => (float[N,3] y) {
            f = Cast<to = 1>(x) zero = Constant<value_float = 0.0>()
            y = If (c) <
                then_branch = t () => (float[N,3] p)
                    { s = Softmax(f) nan = IsNaN(s) w = Where(nan, zero, s) p = Neg(w) },
                else_branch = e () => (float[N,3] q) { q = Abs(f) }
            >
        }"""
    )
    assert_rewrites(RemoveNanGuards(), model, expect=["Cast", "If"], rewrites=1, rtol=0, atol=0)


def test_last_axis_only_is_trusted_with_a_partial_mask() -> None:
    model = parse_model(
        """g (float[N,4,8] q, float[N,8,4] k) => (float[N,4,4] y) {
            zero = Constant<value_float = 0.0>()
            scores = MatMul(q, k) z = Add(scores, c)
            s = Softmax<axis = 1>(z) nan = IsNaN(s) y = Where(nan, zero, s)
        }""",
        {"c": _tril(-np.inf)},
    )
    assert_refuses(RemoveNanGuards(), model, "a mask contains -inf")


@pytest.mark.parametrize(("opset", "axis"), [(9, 2), (11, -1), (13, -1), (23, -1)])
def test_guard_goes_in_every_opset_that_has_it(opset: int, axis: int) -> None:
    model = parse_model(
        f"""g (float[N,4,8] q, float[N,8,4] k) => (float[N,4,4] y) {{
            zero = Constant<value = float {{0.0}}>()
            z = MatMul(q, k) s = Softmax<axis = {axis}>(z) nan = IsNaN(s) y = Where(nan, zero, s)
        }}""",
        opset=opset,
    )
    assert_rewrites(RemoveNanGuards(), model, expect=None, rewrites=1, rtol=0, atol=0)


def test_cost_is_linear_when_the_scores_are_a_long_diamond() -> None:
    steps = " ".join(f"v{i + 1} = Max(v{i}, v{i})" for i in range(25))
    model = _attention(f"v0 = Identity(scores) {steps} z = Identity(v25)")
    assert RemoveNanGuards()(model).modified

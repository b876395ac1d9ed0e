from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from helpers.prunable import GRAPHS, residual_cnn
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model
from helpers.zeroing import zero_units
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.passes.pruning import RemoveDeadUnits


@pytest.mark.parametrize("graph", GRAPHS)
def test_zeroed_units_are_found_and_removed_when_nothing_else_depends_on_them(
    graph: Callable[[], ir.Model],
) -> None:
    model = graph()
    count = zero_units(model)
    assert count
    before = sum(t.const_value.size for t in model.graph.initializers.values() if t.const_value)
    assert_rewrites(RemoveDeadUnits(), model, expect=None, rewrites=count, rtol=1e-5, atol=1e-5)
    after = sum(t.const_value.size for t in model.graph.initializers.values() if t.const_value)
    assert after < before


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(GRAPHS), st.floats(min_value=0.1, max_value=0.7), st.integers(0, 2**16))
def test_output_is_unchanged_when_any_units_are_zero(
    graph: Callable[[], ir.Model], share: float, seed: int
) -> None:
    model = graph()
    count = zero_units(model, share, seed)
    assert_rewrites(
        RemoveDeadUnits(),
        model,
        expect=None,
        rewrites=count,
        rtol=1e-5,
        atol=1e-5,
        sizes=[{"N": 2}],
    )


def test_nothing_changes_when_no_unit_is_zero() -> None:
    model = residual_cnn()
    names = list(model.graph.initializers)
    assert_rewrites(RemoveDeadUnits(), model, expect=None, rewrites=0, rtol=0, atol=0)
    assert list(model.graph.initializers) == names


def _two_layers(between: str, **weights: np.ndarray) -> ir.Model:
    return parse_model(
        f"""
        g (float[N, 4] x) => (float[N, 3] y) {{
            a = MatMul(x, wa)
            b = {between}
            y = MatMul(b, wb)
        }}
        """,
        {"wa": np.ones((4, 6), np.float32), "wb": np.ones((6, 3), np.float32), **weights},
    )


def test_producers_of_zeros_are_dead_when_zeros_stay_zeros() -> None:
    wa = np.ones((4, 6), np.float32)
    wa[:, 2] = 0
    model = _two_layers("Relu(a)", wa=wa)
    assert_rewrites(RemoveDeadUnits(), model, expect=None, rewrites=1, rtol=0, atol=0)


def test_producers_of_zeros_stay_when_an_operator_makes_something_of_zeros() -> None:
    wa = np.ones((4, 6), np.float32)
    wa[:, 2] = 0
    model = _two_layers("Sigmoid(a)", wa=wa)
    assert_rewrites(RemoveDeadUnits(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_one_unit_stays_when_all_are_dead() -> None:
    model = _two_layers("Relu(a)", wb=np.zeros((6, 3), np.float32))
    result = assert_rewrites(RemoveDeadUnits(), model, expect=None, rewrites=5, rtol=0, atol=0)
    assert "all units are dead" in result.refusals[0].reason


def test_units_under_a_normalization_are_refused_when_dead() -> None:
    wa, wb = np.ones((4, 6), np.float32), np.ones((6, 3), np.float32)
    wa[:, 2], wb[2] = 0, 0
    model = _two_layers("LayerNormalization(a, s)", wa=wa, wb=wb, s=np.ones(6, np.float32))
    assert_refuses(RemoveDeadUnits(), model, "normalizes over units of zeros")


def test_quantized_models_are_refused() -> None:
    model = parse_model(
        "g (float[N, 4] x) => (uint8[N, 4] y) { y = QuantizeLinear(x, s, z) }",
        {"s": np.float32(0.1), "z": np.uint8(3)},
    )
    assert_refuses(RemoveDeadUnits(), model, "then quantize it")

"""RemoveInitializersFromInputs: defaults that the caller could override become constants."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rewriting import assert_rewrites, parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.passes.cleanup.initializer_inputs import RemoveInitializersFromInputs

_GRAPH = """g (float[N,2] x, float[2] w, float[2] b) => (float[N,2] y)
<float[2] w = {1, 2}, float[2] b = {3, 4}> { m = Mul(x, w) y = Add(m, b) }"""


@pytest.mark.parametrize("opset", [13, 18])
def test_inputs_go_when_they_are_initializers(opset: int) -> None:
    model = parse_model(_GRAPH, opset=opset)
    assert_rewrites(
        RemoveInitializersFromInputs(),
        model,
        expect=["Mul", "Add"],
        rewrites={"initializer-input": 2},
        rtol=0,
        atol=0,
    )
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert set(model.graph.initializers) == {"w", "b"}


def test_input_stays_when_keep_names_it() -> None:
    model = parse_model(_GRAPH)
    assert_rewrites(
        RemoveInitializersFromInputs(keep=("b",)),
        model,
        expect=None,
        rewrites={"initializer-input": 1},
        rtol=0,
        atol=0,
    )
    assert [value.name for value in model.graph.inputs] == ["x", "b"]


def test_error_names_the_input_when_keep_is_misspelled() -> None:
    with pytest.raises(InvalidInputError, match="'bias', which is no graph input"):
        RemoveInitializersFromInputs(keep=("bias",))(parse_model(_GRAPH))


@pytest.mark.parametrize("opset", [7, 8])
def test_ir_version_is_raised_when_it_demands_initializers_among_the_inputs(opset: int) -> None:
    model = parse_model(_GRAPH, opset=opset, ir_version=3)
    assert_rewrites(
        RemoveInitializersFromInputs(),
        model,
        expect=None,
        rewrites={"initializer-input": 2, "ir-version": 1},
        rtol=0,
        atol=0,
    )
    assert model.ir_version == 4
    assert model.opset_imports[""] == opset


def test_ir_version_is_raised_when_all_weights_are_constant_nodes() -> None:
    model = parse_model(
        "g (float[N] x) => (float[N] y) { w = Constant<value = float[1] {2}>() y = Mul(x, w) }",
        opset=7,
        ir_version=3,
    )
    assert_rewrites(
        RemoveInitializersFromInputs(),
        model,
        expect=None,
        rewrites={"ir-version": 1},
        rtol=0,
        atol=0,
    )


def test_weight_serves_both_graphs_when_a_branch_captures_it() -> None:
    model = parse_model(
        """g (float[2] x, bool c, float[2] w) => (float[2] y) <float[2] w = {1, 2}> {
            y = If (c) <
                then_branch = t () => (float[2] p) { p = Add(x, w) },
                else_branch = e () => (float[2] q) { q = Mul(x, w) }
            >
        }"""
    )
    assert_rewrites(
        RemoveInitializersFromInputs(), model, expect=["If"], rewrites=1, rtol=0, atol=0
    )


def test_initializer_stays_a_graph_output_when_it_was_input_and_output() -> None:
    model = parse_model(
        "g (float[2] x, float[2] w) => (float[2] y, float[2] w) <float[2] w = {1, 2}>"
        "{ y = Add(x, w) }"
    )
    pass_ = RemoveInitializersFromInputs()
    assert_rewrites(pass_, model, expect=["Add"], rewrites=1, rtol=0, atol=0)
    np.testing.assert_array_equal(model.graph.outputs[1].const_value.numpy(), [1, 2])

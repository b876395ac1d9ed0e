"""RemoveUnused: dead nodes, outputs, initializers, functions and opset imports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.unused import RemoveUnused


def _model(text: str, weights: dict[str, Any] | None = None, *, opset: int = 18) -> ir.Model:
    """Imports the default domain only: an import without a node is a find of the pass itself."""
    return parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>{text}', weights)


def test_chain_goes_when_its_last_node_is_unused() -> None:
    model = _model(
        "g (float[N] x) => (float[N] y) { a = Neg(x) b = Abs(a) c = Exp(b) y = Relu(x) }"
    )
    assert_rewrites(
        RemoveUnused(), model, expect=["Relu"], rewrites={"unused-node": 3}, rtol=0, atol=0
    )


def test_nothing_changes_when_everything_is_used() -> None:
    model = _model("g (float[N] x) => (float[N] y, float[N] a) { a = Neg(x) y = Relu(a) }")
    assert_rewrites(RemoveUnused(), model, expect=["Neg", "Relu"], rewrites=0, rtol=0, atol=0)


def test_graph_inputs_stay_when_nothing_reads_them() -> None:
    model = _model("g (float[N] x, float[N] z) => (float[N] y) { a = Neg(z) y = Relu(x) }")
    assert_rewrites(RemoveUnused(), model, expect=["Relu"], rewrites=1, rtol=0, atol=0)


def test_value_stays_when_only_a_subgraph_captures_it() -> None:
    model = _model(
        """g (float[N] x, bool c) => (float[N] y) {
            a = Neg(x)
            y = If (c) <
                then_branch = t () => (float[N] p) { p = Relu(a) },
                else_branch = e () => (float[N] q) { d = Abs(x) q = Identity(x) }
            >
        }"""
    )
    assert_rewrites(RemoveUnused(), model, expect=["Neg", "If"], rewrites=1, rtol=0, atol=0)


def test_captured_producers_go_when_the_if_is_unused() -> None:
    model = _model(
        """g (float[N] x, bool c) => (float[N] y) {
            a = Neg(x)
            z = If (c) <
                then_branch = t () => (float[N] p) { p = Relu(a) },
                else_branch = e () => (float[N] q) { q = Identity(x) }
            >
            y = Abs(x)
        }"""
    )
    assert_rewrites(
        RemoveUnused(), model, expect=["Abs"], rewrites={"unused-node": 2}, rtol=0, atol=0
    )


def test_branch_computations_go_when_one_output_of_an_if_is_unused() -> None:
    model = _model(
        """g (float[N] x, bool c) => (float[N] y) {
            a = Neg(x)
            z, y = If (c) <
                then_branch = t () => (float[N] p1, float[N] p2) { p1 = Exp(a) p2 = Relu(x) },
                else_branch = e () => (float[N] q1, float[N] q2) { q1 = Exp(x) q2 = Abs(x) }
            >
        }"""
    )
    assert_rewrites(
        RemoveUnused(),
        model,
        expect=["If"],
        rewrites={"unused-branch-output": 1, "unused-node": 3},
        rtol=0,
        atol=0,
    )


_LOOP = """g (float[2] x, int64 n, bool c) => (float[2] {output}) {{
    final, s1, s2 = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v)
        => (bool k2, float[2] w, float[2] o1, float[2] o2)
        {{ k2 = Identity(k) w = Neg(v) o1 = Exp(v) o2 = Abs(v) }}>
    {tail}
}}"""


def test_scan_outputs_of_a_loop_go_when_unused() -> None:
    model = _model(_LOOP.format(output="y", tail="y = Relu(final)"))
    assert_rewrites(
        RemoveUnused(),
        model,
        expect=["Loop", "Relu"],
        rewrites={"unused-branch-output": 2, "unused-node": 2},
        rtol=0,
        atol=0,
        feeds={"x": np.ones(2, np.float32), "n": np.array(3), "c": np.array(True)},
    )


def test_carried_state_of_a_loop_stays_when_only_a_scan_output_is_used() -> None:
    text = _LOOP.format(
        output="y",
        tail="axis = Constant<value_ints=[0]>() r = ReduceSum<keepdims=0>(s2, axis) y = Relu(r)",
    )
    model = _model(text)
    assert_rewrites(
        RemoveUnused(),
        model,
        expect=["Loop", "Constant", "ReduceSum", "Relu"],
        rewrites={"unused-branch-output": 1, "unused-node": 1},
        rtol=0,
        atol=0,
        feeds={"x": np.ones(2, np.float32), "n": np.array(3), "c": np.array(True)},
    )


def test_initializers_go_when_unused_in_the_main_graph_and_in_a_branch() -> None:
    model = _model(
        """g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}, float[2] dead = {3, 4}> {
            y = If (c) <
                then_branch = t () => (float[2] p) <float[2] u = {1, 2}> { p = Add(x, w) },
                else_branch = e () => (float[2] q) { q = Identity(x) }
            >
        }"""
    )
    assert_rewrites(
        RemoveUnused(), model, expect=None, rewrites={"unused-initializer": 2}, rtol=0, atol=0
    )
    assert list(model.graph.initializers) == ["w"]


def test_initializer_stays_when_it_is_a_graph_input_or_output() -> None:
    model = _model(
        """g (float[2] x, float[2] a) => (float[2] y, float[2] b)
        <float[2] a = {1, 2}, float[2] b = {3, 4}> { y = Relu(x) }"""
    )
    assert_rewrites(RemoveUnused(), model, expect=["Relu"], rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize(("opset", "mask"), [(9, "float"), (12, "bool"), (18, "bool")])
def test_mask_of_a_dropout_goes_when_unused(opset: int, mask: str) -> None:
    model = _model("g (float[N] x) => (float[N] y) { y, mask = Dropout(x) }", opset=opset)
    assert_rewrites(
        RemoveUnused(), model, expect=["Dropout"], rewrites={"unused-output": 1}, rtol=0, atol=0
    )
    assert len(model.graph[0].outputs) == 1


def test_indices_of_a_max_pool_stay_when_they_are_a_graph_output() -> None:
    model = _model(
        """g (float[1,1,8] x) => (float[1,1,4] y, int64[1,1,4] i)
        { y, i = MaxPool<kernel_shape=[2], strides=[2]>(x) }"""
    )
    assert_rewrites(RemoveUnused(), model, expect=["MaxPool"], rewrites=0, rtol=0, atol=0)


def test_sequence_of_an_lstm_loses_its_name_when_only_the_last_state_is_used() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 8, 3)).astype(np.float32),
        "r": rng.standard_normal((1, 8, 2)).astype(np.float32),
    }
    model = _model(
        """g (float[T,1,3] x) => (float[1,1,2] y)
        { seq, h, c = LSTM<hidden_size=2>(x, w, r) y = Relu(h) }""",
        weights,
    )
    assert_rewrites(
        RemoveUnused(),
        model,
        expect=["LSTM", "Relu"],
        rewrites={"unused-output": 2},
        rtol=0,
        atol=0,
        sizes=({"T": 1}, {"T": 4}),
    )
    assert [value.name for value in model.graph[0].outputs] == ["", "h"]


@pytest.mark.parametrize("opset", [9, 13])
def test_training_outputs_of_batch_normalization_stay_because_they_select_the_mode(
    opset: int,
) -> None:
    ones = np.ones(2, np.float32)
    model = _model(
        """g (float[3,2,4] x) => (float[3,2,4] y)
        { y, m1, v1, m2, v2 = BatchNormalization(x, s, b, m, v) }""",
        {"s": ones, "b": ones, "m": ones, "v": ones},
        opset=opset,
    )
    assert_rewrites(
        RemoveUnused(), model, expect=["BatchNormalization"], rewrites=0, rtol=0, atol=0
    )


def test_node_without_outputs_stays_because_it_exists_for_an_effect() -> None:
    model = _model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.append(ir.Node("my.domain", "Log", [model.graph.inputs[0]], num_outputs=0))
    result = RemoveUnused()(model)
    assert not result.modified
    assert op_types(model) == ["Relu", "my.domain.Log"]


def test_unused_functions_go_when_only_they_call_each_other() -> None:
    model = parse_model(
        """<ir_version: 10, opset_import: ["" : 18, "f" : 1, "unused" : 3]>
        g (float[N] x) => (float[N] y) { y = f.Used(x) }
        <domain: "f", opset_import: ["" : 18, "other" : 1]>
        Used (a) => (b) { dead = Neg(a) b = Relu(a) }
        <domain: "f", opset_import: ["" : 18, "f" : 1]>
        Outer (a) => (b) { b = f.Inner(a) }
        <domain: "f", opset_import: ["" : 18]>
        Inner (a) => (b) { b = Relu(a) }"""
    )
    assert_rewrites(
        RemoveUnused(),
        model,
        expect=["f.Used"],
        rewrites={"unused-function": 2, "unused-node": 1, "unused-opset-import": 2},
        rtol=0,
        atol=0,
    )
    assert model.opset_imports == {"": 18, "f": 1}


def test_cost_is_linear_when_a_chain_of_many_nodes_is_dead() -> None:
    body = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(5000))
    model = _model(f"g (float[N] v0) => (float[N] y) {{ {body} y = Relu(v0) }}")
    assert RemoveUnused()(model).rewrites["unused-node"] == 5000

"""SinkInitializers: into the innermost loop that has all users, and only there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.core.walking import enclosing_graphs
from onnxopt.passes.cleanup.loop_weights import SinkInitializers

_W = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)
_STORED = "float[2,2] w = {0.5, -1.0, 2.0, 0.25}"
_LOOP = """
g (float[1,2] x) => (float[1,2] y)
<int64 n = {3}, bool t = {1}> {
    y = Loop (n, t, x) <body = b (int64 i, bool k, float[1,2] v) => (bool k2, float[1,2] u) {
        k2 = Identity (k)
        u = MatMul (v, w)
    }>
}"""


def _places(model: ir.Model) -> list[list[str]]:
    return [sorted(graph.initializers) for graph, _ in enclosing_graphs(model.graph)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weight_moves_into_the_body_when_only_the_loop_reads_it(dtype: type) -> None:
    text = _LOOP.replace("float[", "double[") if dtype is np.float64 else _LOOP
    model = parse_model(text, {"w": _W.astype(dtype)})
    assert_rewrites(SinkInitializers(), model, expect=["Loop"], rewrites=1, rtol=0, atol=0)
    assert _places(model) == [["n", "t"], ["w"]]


def test_weight_moves_into_the_body_when_a_scan_reads_it() -> None:
    model = parse_model(
        """
        g (float[1,2] h, float[N,2] x) => (float[1,2] y, float[N,1,2] s) {
            y, s = Scan <num_scan_inputs = 1, body = b (float[1,2] v, float[2] p)
                => (float[1,2] u, float[1,2] o) {
                    m = MatMul (v, w)
                    u = Add (m, p)
                    o = Identity (u)
                }> (h, x)
        }""",
        {"w": _W},
    )
    assert_rewrites(SinkInitializers(), model, expect=["Scan"], rewrites=1, rtol=0, atol=0)
    assert _places(model) == [[], ["w"]]


def test_weight_stays_when_the_main_graph_reads_it_too() -> None:
    text = _LOOP.replace("> {", f", {_STORED}> {{ x2 = MatMul (x, w)", 1).replace("t, x)", "t, x2)")
    assert not SinkInitializers()(parse_model(text)).modified


def test_weight_stays_when_two_loops_read_it() -> None:
    body = "<body = b{0} (int64 i{0}, bool k{0}, float[1,2] v{0}) => (bool c{0}, float[1,2] u{0})"
    loop = body + "{{ c{0} = Identity (k{0}) u{0} = MatMul (v{0}, w) }}>"
    model = parse_model(
        f"g (float[1,2] x) => (float[1,2] y) <int64 n = {{3}}, bool t = {{1}}, {_STORED}> {{"
        f"z = Loop (n, t, x) {loop.format(1)} y = Loop (n, t, z) {loop.format(2)}" + "}"
    )
    assert not SinkInitializers()(model).modified


def test_weight_moves_to_the_inner_loop_when_loops_are_nested() -> None:
    model = parse_model(
        """
        g (float[1,2] x) => (float[1,2] y)
        <int64 n = {3}, bool t = {1}, float[2,2] w = {0.5, -1.0, 2.0, 0.25}> {
            y = Loop (n, t, x) <body = a (int64 i, bool k, float[1,2] v)
                    => (bool k2, float[1,2] u) {
                k2 = Identity (k)
                u = Loop (n, t, v) <body = b (int64 j, bool l, float[1,2] p)
                        => (bool l2, float[1,2] q) {
                    l2 = Identity (l)
                    q = MatMul (p, w)
                }>
            }>
        }"""
    )
    assert_rewrites(SinkInitializers(), model, expect=["Loop"], rewrites=1, rtol=0, atol=0)
    assert _places(model) == [["n", "t"], [], ["w"]]


def test_weight_stays_when_only_a_branch_reads_it() -> None:
    model = parse_model(
        """
        g (bool c, float[1,2] x) => (float[1,2] y) {
            y = If (c) <
                then_branch = a () => (float[1,2] p) { p = MatMul (x, w) },
                else_branch = b () => (float[1,2] q) { q = Identity (x) }
            >
        }""".replace("{", f"<{_STORED}> {{", 1)
    )
    assert not SinkInitializers()(model).modified


def test_overridable_weight_is_refused_when_only_the_loop_reads_it() -> None:
    model = parse_model(_LOOP.replace("x) =>", "x, float[2,2] w) =>"), {"w": _W})
    assert_refuses(SinkInitializers(), model, "graph input that the caller may replace")


def test_weight_that_is_an_output_is_refused_when_only_the_loop_reads_it() -> None:
    text = _LOOP.replace("2] y)\n", "2] y, float[2,2] w)\n").replace("> {", f", {_STORED}> {{", 1)
    model = parse_model(text)
    assert_refuses(SinkInitializers(), model, "graph output")

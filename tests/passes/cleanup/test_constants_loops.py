"""FoldConstants in bodies of Loop and Scan whose integer state grows: its size is no constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_rewrites, parse_model

from onnxopt.graph.inference import infer_model
from onnxopt.passes.cleanup.constants import FoldConstants


@pytest.mark.parametrize("kind", ["int64", "bool", "int32"])
@pytest.mark.parametrize("grow", ["Concat<axis=0>(s, s)", "Concat<axis=0>(s, more)"])
def test_shape_stays_when_the_state_of_a_loop_grows(kind: str, grow: str) -> None:
    model = parse_model(
        f"""g (int64 n, bool c, {kind}[1] first) => ({kind}[K] y, int64[A,1] sizes)
        <{kind}[1] more = {{1}}>
        {{ y, sizes = Loop (n, c, first) <body = b (int64 i, bool go, {kind}[S] s)
            => (bool again, {kind}[T] t, int64[1] size)
            {{ again = Identity(go) t = {grow} size = Shape(t) }}> }}"""
    )
    feeds = {"n": np.array(3), "c": np.array(True), "first": np.array([1], kind)}
    assert_rewrites(
        FoldConstants(), model, expect=["Loop"], rewrites=0, rtol=0, atol=0, feeds=feeds
    )


def test_shape_stays_when_the_growing_state_is_that_of_a_nested_loop() -> None:
    model = parse_model(
        """g (int64 n, bool c, int64[1] first) => (int64[K] y, int64[A,B,1] sizes)
        <int64[1] more = {1}, int64 two = {2}>
        { y, sizes = Loop (n, c, first) <body = b (int64 i, bool go, int64[S] s)
            => (bool again, int64[T] t, int64[B,1] inner)
            { again = Identity(go)
              t, inner = Loop (two, go, s) <body = d (int64 j, bool go2, int64[P] p)
                => (bool again2, int64[Q] q, int64[1] size)
                { again2 = Identity(go2) q = Concat<axis=0>(p, more) size = Shape(q) }> }> }"""
    )
    feeds = {"n": np.array(3), "c": np.array(True), "first": np.array([1])}
    assert_rewrites(
        FoldConstants(), model, expect=["Loop"], rewrites=0, rtol=0, atol=0, feeds=feeds
    )


@pytest.mark.parametrize("kind", ["int64", "bool"])
def test_shape_is_no_constant_when_the_state_of_a_scan_grows(kind: str) -> None:
    model = parse_model(
        f"""g ({kind}[1] first, float[T,2] x) => ({kind}[K] y, int64[T,1] sizes)
        {{ y, sizes = Scan <num_scan_inputs = 1, body = b ({kind}[S] s, float[2] e)
            => ({kind}[U] t, int64[1] size)
            {{ t = Concat<axis=0>(s, s) size = Shape(t) }}> (first, x) }}"""
    )
    inference = infer_model(model)
    shape = next(node for node in model.graph.all_nodes() if node.op_type == "Shape")
    assert shape.outputs[0] not in inference.constants
    state = model.graph[0].attributes["body"].as_graph().inputs[0]
    assert state.shape is None
    assert state.dtype == ir.DataType[kind.upper()]

"""MergeClips: every pair of clamps, the spellings of both opset eras, integers, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.fusion.clips import MergeClips

LIMITS = {"z": 0.0, "one": 1.0, "m": -0.5, "six": 6.0}
FEEDS = {"x": np.linspace(-9, 9, 41, dtype=np.float32)}


@pytest.mark.parametrize(
    ("body", "expect", "rewrites"),
    [
        ("a = Clip(x, m, one) y = Relu(a)", ["Clip"], 1),
        ("a = Relu(x) y = Clip(a, m, six)", ["Clip"], 1),
        ("a = Clip(x, z, one) y = Clip(a, m, six)", ["Clip"], 1),
        ("a = Clip(x, one, six) y = Clip(a, m, z)", ["Clip"], 1),
        ("a = Max(x, z) y = Min(a, six)", ["Clip"], 2),
        ("a = Min(six, x) y = Max(z, a)", ["Clip"], 1),
        ("a = Min(x, one) y = Max(a, six)", ["Clip"], 1),
        ("a = Relu(x) y = Relu(a)", ["Relu"], 1),
        ("a = Clip(x, m) y = Relu(a)", ["Relu"], 1),
        ("y = Max(z, x)", ["Relu"], 1),
        ("y = Clip(x, z)", ["Relu"], 1),
        ("a = Relu(x) b = Clip(a, , six) c = Relu(b) y = Min(c, one)", ["Clip"], 3),
        ("y = Max(x, one)", ["Max"], 0),
        ("y = Min(x, six)", ["Min"], 0),
        ("y = Clip(x, z, six)", ["Clip"], 0),
    ],
)
def test_clamps_are_merged(body: str, expect: list[str], rewrites: int) -> None:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    limits = {name: np.array(LIMITS[name], np.float32) for name in words if name in LIMITS}
    model = parse_model(f"g (float[41] x) => (float[41] y) {{ {body} }}", limits)
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(
        MergeClips(), model, expect=expect, rewrites=rewrites, rtol=0, atol=0, feeds=FEEDS
    )


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_limits_are_attributes_when_the_opset_is_old(opset: int) -> None:
    model = parse_model(
        """g (float[41] x) => (float[41] y)
        { a = Clip <min = -1.0> (x) b = Relu(a) y = Clip <min = -3.0, max = 6.0> (b) }""",
        opset=opset,
    )
    assert_rewrites(MergeClips(), model, expect=["Clip"], rewrites=2, rtol=0, atol=0, feeds=FEEDS)
    assert model.graph[0].attributes["max"].as_float() == 6.0


@pytest.mark.parametrize("name", ["int64", "int32", "int8"])
@pytest.mark.parametrize("opset", [12, 14, 21])
def test_integers_are_clamped_exactly(name: str, opset: int) -> None:
    model = parse_model(
        f"""g ({name}[5] x) => ({name}[5] y) <{name} z = {{0}}, {name} m = {{100}}>
        {{ a = Max(x, z) y = Min(a, m) }}""",
        opset=opset,
    )
    feeds = {"x": np.array([-128, -1, 0, 99, 127], name)}
    assert_rewrites(MergeClips(), model, expect=["Clip"], rewrites=1, rtol=0, atol=0, feeds=feeds)


def test_large_integers_keep_every_digit() -> None:
    limit = 2**53 + 1
    model = parse_model(
        """g (int64[3] x) => (int64[3] y)
        { a = Max(x, z) y = Min(a, m) }""",
        {"z": np.array(1), "m": np.array(limit)},
    )
    feeds = {"x": np.array([0, limit, 2**60])}
    assert_rewrites(MergeClips(), model, expect=["Clip"], rewrites=1, rtol=0, atol=0, feeds=feeds)


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("double", np.float64)])
def test_other_float_types_are_merged(name: str, dtype: Any) -> None:
    model = parse_model(
        f"g ({name}[N] x) => ({name}[N] y) {{ a = Relu(x) y = Clip(a, m, o) }}",
        {"m": np.array(-1, dtype), "o": np.array(1, dtype)},
    )
    assert_rewrites(MergeClips(), model, expect=["Clip"], rewrites=1, rtol=0, atol=0)


def test_inner_clamp_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y, float[N] a) <float o = {1.0}>
        { a = Relu(x) y = Clip(a, , o) }"""
    )
    assert_refuses(MergeClips(), model, "other users")


def test_clip_stays_when_its_limits_cross() -> None:
    model = parse_model(
        """g (float[N] x) => (float[N] y) <float o = {1.0}, float m = {-1.0}>
        { a = Relu(x) y = Clip(a, o, m) }"""
    )
    assert_refuses(MergeClips(), model, "exceeds")


@pytest.mark.parametrize("body", ["a = Relu(x) y = Clip(a, l)", "a = Relu(x) y = Max(a, x)"])
def test_clamps_stay_silently_when_limits_are_computed(body: str) -> None:
    model = parse_model(f"g (float[N] x, float l) => (float[N] y) {{ {body} }}")
    result = MergeClips()(model)
    assert not result.modified
    assert not result.refusals


def test_subgraph_and_shared_limits_are_handled() -> None:
    model = parse_model(
        """g (float[N] x, bool k) => (float[N] y) <float o = {1.0}> {
            y = If (k) <
                then_branch = a () => (float[N] p) { c = Relu(x) p = Clip(c, , o) },
                else_branch = e () => (float[N] q) { q = Clip(x, , o) }
            >
        }"""
    )
    assert_rewrites(MergeClips(), model, expect=["If"], rewrites=1, rtol=0, atol=0)


def test_integer_max_stays_when_relu_would_have_no_kernel() -> None:
    model = parse_model("g (int64[N] x) => (int64[N] y) <int64 zero = {0}> { y = Max(x, zero) }")
    assert not MergeClips()(model).modified

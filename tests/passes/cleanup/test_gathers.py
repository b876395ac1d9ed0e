"""`MergeGathers`: elements taken from where they come from, and scalar or list indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_rewrites, parse_model

from onnxopt.passes.cleanup.gathers import MergeGathers


def _model(
    body: str, *, x: str, y: str, opset: int = 18, infer: bool = True, **constants: Any
) -> ir.Model:
    weights = {name: np.asarray(value, np.int64) for name, value in constants.items()}
    model = parse_model(
        f"g ({x} x) => ({y} y) {{ a = Neg(x) {body} y = Relu(b) }}", weights, opset=opset
    )
    if infer:
        ir.passes.common.ShapeInferencePass()(model)
    return model


def _assert_becomes(model: ir.Model, *middle: str, rewrites: int = 1) -> None:
    assert_rewrites(
        MergeGathers(), model, expect=["Neg", *middle, "Relu"], rewrites=rewrites, rtol=0, atol=0,
        sizes=[{"N": 2, "M": 3}, {"N": 5, "M": 1}],
    )  # fmt: skip


def _assert_stays(model: ir.Model) -> None:
    assert_rewrites(
        MergeGathers(), model, expect=None, rewrites=0, rtol=0, atol=0, sizes=[{"N": 5, "M": 3}]
    )


@pytest.mark.parametrize("second", [0, -1, [1, 0], [[2, -3]]])
@pytest.mark.parametrize("opset", [10, 13, 21])
def test_gathers_merge_when_the_axis_is_the_same(second: Any, opset: int) -> None:
    y = {0: "N", 1: "N,?", 2: "N,?,?"}[np.ndim(second)]
    model = _model(
        "m = Gather<axis=1>(a, i) b = Gather<axis=1>(m, j)",
        x="float[N,4]", y=f"float[{y}]", opset=opset, i=[3, 1, -4], j=second,
    )  # fmt: skip
    _assert_becomes(model, "Gather")


def test_gathers_stay_when_the_axes_differ() -> None:
    text = "m = Gather<axis=1>(a, i) b = Gather<axis=0>(m, j)"
    _assert_stays(_model(text, x="float[5,4]", y="float[1,2]", i=[3, 1], j=[0]))


def test_gathers_stay_when_a_negative_index_has_an_unknown_size() -> None:
    text = "m = Gather<axis=0>(a, i) b = Gather<axis=0>(m, j)"
    _assert_stays(_model(text, x="float[N]", y="float[1]", i=[-1, 0], j=[0]))


@pytest.mark.parametrize(("start", "index"), [(1, 0), (1, [0, 2]), (-3, [-1])])
def test_gather_skips_a_slice_when_its_start_is_known(start: int, index: Any) -> None:
    y = "float[N]" if index == 0 else f"float[N,{len(index)}]"
    model = _model(
        "m = Slice(a, s, e, x1) b = Gather<axis=1>(m, i)",
        x="float[N,5]", y=y, s=[start], e=[9], x1=[1], i=index,
    )  # fmt: skip
    _assert_becomes(model, "Gather")


def test_gather_stays_when_the_slice_counts_from_an_unknown_end() -> None:
    text = "m = Slice(a, s, e, z) b = Gather<axis=0>(m, i)"
    _assert_stays(_model(text, x="float[N]", y="float", s=[-2], e=[9], z=[0], i=0))


@pytest.mark.parametrize(("index", "merges"), [(0, True), ([4, 3], True), ([0, 3], False)])
def test_gather_skips_a_concat_when_one_part_has_it(index: Any, merges: bool) -> None:
    y = "float[N]" if index == 0 else "float[N,2]"
    model = _model(
        "c = Abs(a) m = Concat<axis=-1>(a, c) b = Gather<axis=1>(m, i)",
        x="float[N,3]", y=y, i=index,
    )  # fmt: skip
    if merges:
        _assert_becomes(model, *(["Gather"] if index == 0 else ["Abs", "Gather"]))
    else:
        _assert_stays(model)


def test_gather_goes_when_it_undoes_an_unsqueeze() -> None:
    model = _model(
        "m = Unsqueeze(a, z) b = Gather<axis=0>(m, i)",
        x="float[N,M]", y="float[N,M]", z=[0], i=0,
    )  # fmt: skip
    _assert_becomes(model)


def test_dimension_is_used_directly_when_a_shape_vector_holds_it() -> None:
    model = parse_model(
        """g (int64 n, int64 m) => (int64 y) <int64[1] z = {0}, int64 i = {1}>
        { p = Unsqueeze(n, z) q = Unsqueeze(m, z) s = Concat<axis=0>(p, q)
          d = Gather<axis=0>(s, i) y = Add(d, n) }"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(MergeGathers(), model, expect=["Add"], rewrites=2, rtol=0, atol=0)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 3), (-1, 2**63 - 1), (-2, -1)])
@pytest.mark.parametrize("opset", [9, 13])
def test_slice_and_squeeze_become_a_gather(start: int, end: int, opset: int) -> None:
    bounds = {"s": [start], "e": [end], "x1": [1]}
    text = "m = Slice(a, s, e, x1) b = Squeeze(m, x1)"
    if opset < 13:
        text = f"m = Slice<starts=[{start}],ends=[{end}],axes=[1]>(a) b = Squeeze<axes=[1]>(m)"
        bounds = {}
    model = _model(text, x="float[N,4,M]", y="float[N,M]", opset=opset, **bounds)
    _assert_becomes(model, "Gather")


def test_split_and_squeezes_become_gathers_when_all_are_squeezed() -> None:
    model = parse_model(
        """g (float[3,N] x) => (float[N] y) <int64[1] z = {0}, float[1,N] p, float[1,N] q,
        float[1,N] r> {
            p, q, r = Split<axis=0, num_outputs=3>(x)
            a = Squeeze(p, z) b = Squeeze(q, z) c = Squeeze(r, z)
            d = Mul(a, b) y = Add(d, c)
        }"""
    )
    expect = ["Gather", "Gather", "Gather", "Mul", "Add"]
    assert_rewrites(MergeGathers(), model, expect=expect, rewrites=3, rtol=0, atol=0)


def test_split_stays_when_one_output_is_used_as_it_is() -> None:
    model = parse_model(
        """g (float[2,N] x) => (float[N] y, float[1,N] q) <int64[1] z = {0}, float[1,N] p>
        { p, q = Split<axis=0, num_outputs=2>(x) y = Squeeze(p, z) }"""
    )
    assert_rewrites(MergeGathers(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_gather_and_unsqueeze_become_one_when_the_axis_returns() -> None:
    model = _model(
        "m = Gather<axis=1>(a, i) b = Unsqueeze(m, x1)",
        x="float16[N,4]", y="float16[N,1]", i=-1, x1=[-1],
    )  # fmt: skip
    _assert_becomes(model, "Gather")


def test_gather_stays_when_another_axis_is_added() -> None:
    text = "m = Gather<axis=1>(a, i) b = Unsqueeze(m, x1)"
    _assert_stays(_model(text, x="float[N,4]", y="float[1,N]", i=1, x1=[0]))


@pytest.mark.parametrize("index", [0, 1, -1, -2])
@pytest.mark.parametrize("opset", [13, 15, 21])
def test_dimension_is_cut_out_of_the_shape_when_the_opset_allows(index: int, opset: int) -> None:
    model = parse_model(
        f"""g (float[N,4,M] x) => (int64[1] y) <int64 i = {{{index}}}, int64[1] z = {{0}}>
        {{ s = Shape(x) d = Gather(s, i) y = Unsqueeze(d, z) }}""",
        opset=opset,
    )
    expect = ["Shape"] if opset >= 15 else ["Shape", "Gather"]
    assert_rewrites(
        MergeGathers(), model, expect=expect, rewrites=1, rtol=0, atol=0,
        sizes=[{"N": 2, "M": 3}],
    )  # fmt: skip


def test_gather_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (float[N,4] x) => (float[N] d, float[N,1] y) <int64 i = {1}, int64[1] o = {1}>
        { d = Gather<axis=1>(x, i) y = Unsqueeze(d, o) }"""
    )
    assert_rewrites(MergeGathers(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_shared_index_survives_when_gathers_merge() -> None:
    model = parse_model(
        """g (float[4,N] x) => (float[2,N] y, float[2,N] z) <int64[2] i = {1, 0}>
        { a = Gather(x, i) y = Gather(a, i) z = Gather(x, i) }"""
    )
    expect = ["Gather", "Gather"]
    assert_rewrites(MergeGathers(), model, expect=expect, rewrites=1, rtol=0, atol=0)
    assert model.graph.initializers["i"].const_value.numpy().tolist() == [1, 0]


def test_subgraph_is_rewritten_when_the_gathers_lie_inside() -> None:
    model = parse_model(
        """g (float[4,N] x, bool c) => (float[2,N] y) <int64[2] i = {1, 0}> {
            y = If (c) <
                then_branch = t () => (float[2,N] p) { u = Gather(x, i) p = Gather(u, i) },
                else_branch = e () => (float[2,N] q) { q = Gather(x, i) }
            >
        }"""
    )
    assert_rewrites(MergeGathers(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

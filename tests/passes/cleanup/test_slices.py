"""`MergeSlices`: different axes, the same axis with every kind of bound, and parts of a Concat."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup import slices
from onnxopt.passes.cleanup.slices import MergeSlices, slice_bounds

_END = 2**63 - 1


def _pair(
    first: dict[str, list[int]],
    second: dict[str, list[int]],
    *,
    x: str = "float[N,7]",
    y: str = "float[?,?]",
    infer: bool = True,
    opset: int = 18,
    dtype: type = np.int64,
) -> ir.Model:
    """`y = Slice(Slice(x))`, with the bounds as inputs or, before opset 10, as attributes."""
    weights: dict[str, Any] = {}
    calls = []
    for number, bounds in enumerate((first, second)):
        if opset < 10:
            calls.append(", ".join(f"{name}={value}" for name, value in bounds.items()))
            continue
        for name, value in bounds.items():
            weights[f"{name}{number}"] = np.asarray(value, dtype)
        calls.append(", ".join(f"{name}{number}" for name in bounds))
    if opset < 10:
        body = f"a = Slice<{calls[0]}>(x) b = Slice<{calls[1]}>(a)"
    else:
        body = f"a = Slice(x, {calls[0]}) b = Slice(a, {calls[1]})"
    model = parse_model(f"g ({x} x) => ({y} y) {{ {body} y = Relu(b) }}", weights, opset=opset)
    if infer:
        ir.passes.common.ShapeInferencePass()(model)
    return model


def _bounds(start: int, end: int, axis: int, step: int | None = None) -> dict[str, list[int]]:
    bounds = {"starts": [start], "ends": [end], "axes": [axis]}
    return bounds if step is None else {**bounds, "steps": [step]}


def _assert_merges(model: ir.Model) -> None:
    assert_rewrites(
        MergeSlices(), model, expect=["Slice", "Relu"], rewrites=1, rtol=0, atol=0,
        sizes=[{"N": size} for size in (1, 3, 6, 9)],
    )  # fmt: skip


@pytest.mark.parametrize("opset", [9, 10, 13, 21])
def test_slices_merge_when_the_axes_differ(opset: int) -> None:
    _assert_merges(_pair(_bounds(1, 5, 1), _bounds(-2, _END, 0), opset=opset))


def test_slices_merge_when_the_bounds_are_int32() -> None:
    _assert_merges(_pair(_bounds(1, 5, 1), _bounds(0, 2, 0), dtype=np.int32))


def test_slices_merge_when_the_axes_differ_and_one_has_steps() -> None:
    _assert_merges(_pair(_bounds(-1, -_END, 1, -2), _bounds(0, 2, -2)))


@pytest.mark.parametrize("first", [(0, 5), (2, 6), (-5, -1), (1, _END), (-9, 9)])
@pytest.mark.parametrize("second", [(0, 2), (1, _END), (-2, _END), (1, -1), (5, 9)])
@pytest.mark.parametrize("opset", [9, 18])
def test_slices_merge_when_the_size_of_the_axis_is_known(
    first: tuple[int, int], second: tuple[int, int], opset: int
) -> None:
    _assert_merges(_pair(_bounds(*first, 1), _bounds(*second, 1), opset=opset))


@pytest.mark.parametrize("first", [(0, 5), (2, 6), (1, _END), (0, -1)])
@pytest.mark.parametrize("second", [(0, _END), (1, _END), (5, _END)])
def test_slices_merge_when_an_unknown_size_does_not_matter(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    _assert_merges(_pair(_bounds(*first, 0), _bounds(*second, 0)))


def test_slices_merge_when_both_ends_are_counted_from_the_front() -> None:
    _assert_merges(_pair(_bounds(1, 5, 0), _bounds(1, 3, 0)))


@pytest.mark.parametrize(
    ("first", "second"),
    [((-5, _END), (1, _END)), ((0, -1), (0, 2)), ((0, 5), (-2, _END)), ((0, 5), (0, -1))],
)
def test_slices_stay_when_the_bounds_depend_on_an_unknown_size(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    assert_refuses(MergeSlices(), _pair(_bounds(*first, 0), _bounds(*second, 0)), "unknown size")


def test_slices_stay_when_the_same_axis_has_steps() -> None:
    assert_refuses(MergeSlices(), _pair(_bounds(0, 7, 1, 2), _bounds(0, 2, 1)), "steps")


def test_slices_stay_when_the_bounds_are_computed() -> None:
    model = parse_model(
        """g (float[N,7] x, int64[1] e) => (float[?,?] y) <int64[1] z = {0}>
        { a = Slice(x, z, e, z) y = Slice(a, z, e, e) }"""
    )
    assert_rewrites(
        MergeSlices(), model, expect=None, rewrites=0, rtol=0, atol=0,
        feeds={"x": np.ones((3, 7), np.float32), "e": np.array([1])},
    )  # fmt: skip


def test_slices_stay_when_the_axes_are_negative_and_the_rank_is_unknown() -> None:
    model = _pair(_bounds(1, 5, -1), _bounds(0, 2, -2), infer=False)
    model.graph.inputs[0].shape = None
    assert not MergeSlices()(model).modified


def test_first_slice_stays_when_it_is_a_graph_output() -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[N,2] a, float[1,2] y)
        <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}>
        { a = Slice(x, z, t, o) y = Slice(a, z, o, z) }"""
    )
    assert_rewrites(MergeSlices(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_first_slice_goes_when_all_its_readers_are_slices() -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[?,1] y, float[?,1] w)
        <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}>
        { a = Slice(x, z, t, z) y = Slice(a, z, o, o) w = Slice(a, o, t, o) }"""
    )
    expect = ["Slice", "Slice"]
    assert_rewrites(MergeSlices(), model, expect=expect, rewrites=2, rtol=0, atol=0)


def test_first_slice_stays_when_another_node_reads_it() -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[?,1] y, float[?,7] w) <int64[1] z = {0}, int64[1] o = {1}>
        { a = Slice(x, z, o, z) y = Slice(a, z, o, o) w = Neg(a) }"""
    )
    assert_refuses(MergeSlices(), model, "would stay")


def test_first_slice_stays_when_a_slice_that_does_not_merge_reads_it() -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[?,1] y, float[?,7] w)
        <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] m = {-1}>
        { a = Slice(x, z, m, z) y = Slice(a, z, o, o) w = Slice(a, z, t, z) }"""
    )
    assert_refuses(MergeSlices(), model, "would stay")


def test_first_slice_goes_when_its_other_reader_has_become_a_slice() -> None:
    model = parse_model(
        """g (float[N,3] u) => (float[?,1] y, float[?,1] w)
        <int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] s = {3}, int64[1] n = {6}>
        { a = Slice(u, z, t, z) y = Slice(a, z, o, o) c = Concat<axis=1>(a, a)
          d = Slice(c, z, s, o) w = Slice(d, o, t, o) }"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = ["Slice", "Slice"]
    assert_rewrites(MergeSlices(), model, expect=expect, rewrites=3, rtol=0, atol=0)


@pytest.mark.parametrize("kept", [True, False])
def test_work_is_linear_when_many_slices_read_one(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the first Slice goes is asked once, not by each of its readers."""
    count = 100
    weights = {f"c{index}": np.array([index]) for index in range(count + 4)}
    reads = " ".join(f"r{i} = Slice(a, c{i}, c{i + 3})" for i in range(count))
    names = ", ".join(f"r{i}" for i in range(count))
    other = "n = Neg(a)" if kept else "n = Neg(x)"
    model = parse_model(
        f"""g (float[500] x) => (float[L] y) {{
            a = Slice(x, c1, c{count + 3}) {reads} {other} y = Concat<axis=0>({names}, n) }}""",
        weights,
    )
    calls = 0

    def counted(node: ir.Node) -> dict[int, slices.Bounds] | None:
        nonlocal calls
        calls += 1
        return slice_bounds(node)

    monkeypatch.setattr(slices, "slice_bounds", counted)
    result = MergeSlices()(model)
    assert sum(result.rewrites.values()) == (0 if kept else count)
    assert calls < 12 * count


def test_shared_bounds_survive_when_slices_merge() -> None:
    model = parse_model(
        """g (float[N,7] x) => (float[1,1] y, float[1,7] w) <int64[1] z = {0}, int64[1] o = {1}>
        { a = Slice(x, z, o, z) y = Slice(a, z, o, o) w = Slice(x, z, o, z) }"""
    )
    expect = ["Slice", "Slice"]
    assert_rewrites(MergeSlices(), model, expect=expect, rewrites=1, rtol=0, atol=0)
    assert model.graph.initializers["z"].const_value.numpy().tolist() == [0]


@pytest.mark.parametrize(
    ("start", "end", "found"), [(0, 3, True), (3, _END, True), (-4, -1, False)]
)
def test_part_is_used_when_a_slice_cuts_it_out_of_a_concat(
    start: int, end: int, found: bool
) -> None:
    size = 3 if start <= 0 else 4
    model = parse_model(
        f"""g (float[N,3] u, float[N,4] v) => (float[N,{size}] y) <
            int64[1] s = {{{start}}}, int64[1] e = {{{end}}}, int64[1] x = {{1}}, float[N,7] c>
        {{ a = Neg(u) b = Neg(v) c = Concat<axis=-1>(a, b) d = Slice(c, s, e, x) y = Relu(d) }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    expect = ["Neg", "Relu"] if found else None
    assert_rewrites(MergeSlices(), model, expect=expect, rewrites=int(found), rtol=0, atol=0)


def test_subgraph_is_rewritten_when_the_slices_lie_inside() -> None:
    model = parse_model(
        """g (float[N,7] x, bool c) => (float[1,1] y) <int64[1] z = {0}, int64[1] o = {1}> {
            y = If (c) <
                then_branch = t () => (float[1,1] p)
                { u = Slice(x, z, o, z) p = Slice(u, z, o, o) },
                else_branch = e () => (float[1,1] q) { q = Constant<value=float[1,1] {0.0}>() }
            >
        }"""
    )
    assert_rewrites(MergeSlices(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

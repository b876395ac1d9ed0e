"""`RemoveNoOpShapes`: shape and data movement that changes nothing, provably."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.no_op_shapes import RemoveNoOpShapes


def _model(
    body: str,
    *,
    x: str = "float[N,3,4,4]",
    y: str | None = None,
    opset: int = 18,
    **constants: object,
) -> ir.Model:
    """`a = Relu(x)`, the body from a to b, `y = Neg(b)`; constants are initializers."""
    weights = {
        name: np.asarray(value, np.float32 if "scales" in name else np.int64)
        for name, value in constants.items()
    }
    model = parse_model(
        f"g ({x} x) => ({y or x} y) {{ a = Relu(x) {body} y = Neg(b) }}", weights, opset=opset
    )
    ir.passes.common.ShapeInferencePass()(model)
    return model


def _assert_goes(model: ir.Model) -> None:
    assert_rewrites(RemoveNoOpShapes(), model, expect=["Relu", "Neg"], rewrites=1, rtol=0, atol=0)


def _assert_stays(model: ir.Model) -> None:
    before = op_types(model)
    assert_rewrites(RemoveNoOpShapes(), model, expect=before, rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize("target", [[0, 3, 4, 4], [-1, 3, 4, 4], [0, -1, 4, 4], [0, 0, 0, 0]])
def test_reshape_goes_when_the_target_is_the_shape(target: list[int]) -> None:
    _assert_goes(_model("b = Reshape(a, s)", s=target))


@pytest.mark.parametrize("target", [[0, 3, 2, 8], [3, -1, 4, 4], [0, 3, 16]])
def test_reshape_stays_when_the_target_differs(target: list[int]) -> None:
    y = "float[N,3,2,8]" if len(target) == 4 else "float[N,3,16]"
    y = "float[3,M,4,4]" if target[0] == 3 else y
    _assert_stays(_model("b = Reshape(a, s)", y=y, s=target))


def test_reshape_goes_when_it_is_computed_and_the_symbols_agree() -> None:
    model = parse_model(
        """g (float[N,S,8] x) => (float[N,S,8] y) <float[N,S,8] a, float[N,S,8] b>
        { a = Relu(x) s = Shape(x) b = Reshape(a, s) y = Neg(b) }"""
    )
    expect = ["Relu", "Neg", "Shape"]
    result = RemoveNoOpShapes()(model)
    assert result.rewrites == {"reshape": 1}
    assert sorted(op_types(model)) in (sorted(expect), ["Neg", "Relu"])


def test_reshape_stays_when_a_symbol_is_unknown() -> None:
    model = parse_model(
        """g (float[N,?,8] x, int64[3] s) => (float[N,?,8] y) <float[N,?,8] a, float[N,?,8] b>
        { a = Relu(x) b = Reshape(a, s) y = Neg(b) }"""
    )
    assert not RemoveNoOpShapes()(model).modified


def test_reshape_stays_when_zero_means_empty() -> None:
    model = _model("b = Reshape<allowzero=1>(a, s)", x="float[N,4]", y="float[0,4]", s=[0, 4])
    assert not RemoveNoOpShapes()(model).modified


@pytest.mark.parametrize("opset", [8, 13, 21])
@pytest.mark.parametrize("target", [[1], [1, 3, 1, 4], [4, 1]])
def test_expand_goes_when_it_enlarges_nothing(target: list[int], opset: int) -> None:
    _assert_goes(_model("b = Expand(a, s)", opset=opset, s=target))


def test_expand_stays_when_it_adds_a_dimension() -> None:
    _assert_stays(_model("b = Expand(a, s)", x="float[3]", y="float[1,3]", s=[1, 1]))


@pytest.mark.parametrize("opset", [6, 13])
def test_tile_goes_when_every_repeat_is_one(opset: int) -> None:
    _assert_goes(_model("b = Tile(a, r)", opset=opset, r=[1, 1, 1, 1]))
    _assert_stays(_model("b = Tile(a, r)", opset=opset, y="float[N,6,4,4]", r=[1, 2, 1, 1]))


@pytest.mark.parametrize(
    ("starts", "ends", "axes"),
    [
        ([0], [2**63 - 1], [0]),
        ([0, 0], [3, 2**31 - 1], [1, -1]),
        ([-3], [5], [1]),
        ([-100], [100], [3]),
        ([-(2**63) + 1], [2**63 - 1], [0]),
    ],
)
def test_slice_goes_when_it_takes_everything(
    starts: list[int], ends: list[int], axes: list[int]
) -> None:
    _assert_goes(_model("b = Slice(a, s, e, x1)", s=starts, e=ends, x1=axes))


def test_slice_goes_when_an_old_opset_spells_it_as_attributes() -> None:
    _assert_goes(_model("b = Slice<axes=[1], starts=[0], ends=[9]>(a)", opset=9))


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "y"),
    [
        ([0], [2], [1], "float[N,2,4,4]"),
        ([1], [3], [1], "float[N,2,4,4]"),
        ([-1], [-9], [-1], "float[N,3,4,4]"),
        ([0], [-1], [1], "float[N,2,4,4]"),
    ],
)
def test_slice_stays_when_it_cuts_or_reverses(
    starts: list[int], ends: list[int], steps: list[int], y: str
) -> None:
    _assert_stays(_model("b = Slice(a, s, e, x1, t)", y=y, s=starts, e=ends, x1=[1], t=steps))


@pytest.mark.parametrize("opset", [7, 10])
def test_pad_goes_when_zero_and_an_attribute(opset: int) -> None:
    _assert_goes(_model("b = Pad<pads=[0,0,0,0,0,0,0,0]>(a)", opset=opset))


@pytest.mark.parametrize("opset", [11, 18, 21])
def test_pad_goes_when_zero_and_an_input(opset: int) -> None:
    _assert_goes(_model("b = Pad(a, p)", opset=opset, p=[0] * 8))


def test_pad_stays_when_it_shifts_and_keeps_the_shape() -> None:
    _assert_stays(_model("b = Pad(a, p)", p=[0, 0, 1, 0, 0, 0, -1, 0]))


def test_gather_goes_when_the_indices_count_up() -> None:
    _assert_goes(_model("b = Gather<axis=1>(a, i)", i=[0, 1, 2]))
    _assert_stays(_model("b = Gather<axis=1>(a, i)", i=[0, 2, 1]))
    _assert_stays(_model("b = Gather<axis=-1>(a, i)", y="float[N,3,4,3]", i=[0, 1, 2]))


@pytest.mark.parametrize("depth", [1, 2])
def test_scatter_goes_when_it_overwrites_everything(depth: int) -> None:
    indices = np.moveaxis(np.indices((2, 3)[:depth]), 0, -1)
    model = _model("b = ScatterND(x, i, a)", x="float[2,3]", i=indices)
    _assert_goes(model)


def test_scatter_stays_when_it_permutes_or_adds() -> None:
    _assert_stays(_model("b = ScatterND(x, i, a)", x="float[2,3]", i=[[1], [0]]))
    text = 'b = ScatterND<reduction="add">(x, i, a)'
    _assert_stays(_model(text, x="float[2,3]", i=[[0], [1]]))


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("b = Resize(a, scales)", 10),
        ("b = Resize(a, , scales)", 13),
        ('b = Resize<mode="cubic", coordinate_transformation_mode="half_pixel">(a, , scales)', 18),
        ("b = Upsample(a, scales)", 9),
    ],
)
def test_resize_goes_when_every_scale_is_one(body: str, opset: int) -> None:
    _assert_goes(_model(body, opset=opset, scales=[1.0] * 4))


def test_upsample_goes_when_its_scales_are_an_attribute() -> None:
    _assert_goes(_model("b = Upsample<scales=[1.0,1.0,1.0,1.0]>(a)", opset=7))


def test_resize_goes_when_the_sizes_are_those_of_the_input() -> None:
    _assert_goes(_model("b = Resize(a, , , z)", x="float[2,3,4,4]", z=[2, 3, 4, 4]))


def test_resize_stays_when_the_scale_is_not_quite_one() -> None:
    _assert_stays(
        _model('b = Resize<mode="linear">(a, , scales)', x="float[1,3,4,4]", scales=[1, 1, 1.1, 1])
    )


def test_resize_stays_when_the_coordinates_move() -> None:
    mode = 'mode="nearest", coordinate_transformation_mode="tf_crop_and_resize"'
    model = _model(f"b = Resize<{mode}>(a, roiscales, scales)", roiscales=[0] * 8, scales=[1] * 4)
    assert_refuses(RemoveNoOpShapes(), model, "moves pixels")


@pytest.mark.parametrize("opset", [11, 13])
def test_split_goes_when_it_has_one_output(opset: int) -> None:
    _assert_goes(_model("b = Split<axis=1>(a)", opset=opset))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("opset", [11, 18])
def test_reduction_goes_when_the_axes_have_size_one(op: str, opset: int) -> None:
    if opset == 11:
        _assert_goes(_model(f"b = {op}<axes=[1,-1]>(a)", x="float[N,1,3,1]", opset=11))
    else:
        _assert_goes(_model(f"b = {op}(a, x1)", x="float[N,1,3,1]", x1=[1, -1]))


def test_reduction_stays_when_it_drops_or_reduces_an_axis() -> None:
    text = "b = ReduceMean<keepdims=0>(a, x1)"
    _assert_stays(_model(text, x="float[N,1,3]", y="float[N,3]", x1=[1]))
    _assert_stays(_model("b = ReduceMean(a, x1)", x="float[N,1,3]", y="float[1,1,3]", x1=[0]))


def test_reduction_goes_when_no_axes_mean_nothing() -> None:
    _assert_goes(_model("b = ReduceSum<noop_with_empty_axes=1>(a)"))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool_goes_when_its_kernel_is_one(op: str) -> None:
    _assert_goes(_model(f"b = {op}<kernel_shape=[1,1], strides=[1,1]>(a)"))
    _assert_stays(_model(f"b = {op}<kernel_shape=[1,1], strides=[2,2]>(a)", y="float[N,3,2,2]"))


def test_pool_stays_when_its_indices_are_used() -> None:
    model = parse_model(
        """g (float[N,3,4,4] x) => (float[N,3,4,4] y, int64[N,3,4,4] i)
        { y, i = MaxPool<kernel_shape=[1,1]>(x) }"""
    )
    assert_refuses(RemoveNoOpShapes(), model, "Indices")


@pytest.mark.parametrize("op", ["DepthToSpace", "SpaceToDepth"])
def test_block_goes_when_its_size_is_one(op: str) -> None:
    _assert_goes(_model(f"b = {op}<blocksize=1>(a)"))


def test_output_keeps_its_name_when_the_no_op_made_it() -> None:
    model = parse_model(
        """g (float16[N,2] x) => (float16[N,2] y, float16[N,2] a) <float16[N,2] a>
        { a = Relu(x) s = Constant<value_ints=[0,2]>() y = Reshape(a, s) }"""
    )
    assert_rewrites(RemoveNoOpShapes(), model, expect=None, rewrites=1, rtol=0, atol=0)
    assert "Identity" in op_types(model)


def test_shared_target_survives_when_another_reshape_needs_it() -> None:
    model = parse_model(
        """g (float[N,2] x, float[N,1,2] z) => (float[N,2] y, float[N,2] w)
        <int64[2] s = {-1, 2}, float[N,2] a, float[N,2] b>
        { a = Relu(x) b = Reshape(a, s) y = Neg(b) w = Reshape(z, s) }"""
    )
    expect = ["Relu", "Neg", "Reshape"]
    assert_rewrites(RemoveNoOpShapes(), model, expect=expect, rewrites=1, rtol=0, atol=0)
    assert list(model.graph.initializers) == ["s"]


def test_subgraph_is_cleaned_when_a_no_op_lies_inside() -> None:
    model = parse_model(
        """g (float[N,2] x, bool c) => (float[N,2] y) <int64[2] s = {0, 2}> {
            y = If (c) <
                then_branch = t () => (float[N,2] p) { u = Reshape(x, s) p = Relu(u) },
                else_branch = e () => (float[N,2] q) { q = Neg(x) }
            >
        }"""
    )
    assert_rewrites(RemoveNoOpShapes(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

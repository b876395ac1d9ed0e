"""`MergeReshapes`: chains of shape changes, with copies, free dimensions and symbols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.reshape_targets import reshape_target
from onnxopt.passes.cleanup.reshapes import MergeReshapes


def _model(
    body: str, *, x: str, y: str, opset: int = 18, infer: bool = True, **constants: Sequence[int]
) -> ir.Model:
    """`a = Relu(x)`, the body from a to b, `y = Neg(b)`."""
    weights = {name: np.asarray(value, np.int64) for name, value in constants.items()}
    model = parse_model(
        f"g ({x} x) => ({y} y) {{ a = Relu(x) {body} y = Neg(b) }}", weights, opset=opset
    )
    if infer:
        ir.passes.common.ShapeInferencePass()(model)
    return model


def _assert_becomes(model: ir.Model, *middle: str) -> None:
    expect = ["Relu", *middle, "Neg"]
    assert_rewrites(
        MergeReshapes(), model, expect=expect, rewrites=1, rtol=0, atol=0,
        sizes=[{"N": 1, "M": 1}, {"N": 2, "M": 3}],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "y"),
    [
        ([0, -1], [0, 6, 2], "float[N,6,2]"),
        ([-1, 6], [0, 2, 3], "float[M,2,3]"),
        ([0, 0, -1], [-1, 12], "float[N,12]"),
        ([12, -1], [0, 1, -1], "float[12,1,N]"),
        ([3, 4, -1], [4, 3, 0], "float[4,3,N]"),
    ],
)
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_reshapes_become_one(first: list[int], second: list[int], y: str, opset: int) -> None:
    model = _model(
        "m = Reshape(a, s) b = Reshape(m, t)",
        x="float[N,3,4]",
        y=y.replace("M", "?"),
        opset=opset,
        s=first,
        t=second,
    )
    _assert_becomes(model, "Reshape")


def test_reshapes_cancel_when_the_shape_comes_back() -> None:
    model = _model(
        "m = Reshape(a, s) b = Reshape(m, t)",
        x="float[N,3,4]", y="float[N,3,4]", s=[0, 12], t=[0, 3, 4],
    )  # fmt: skip
    _assert_becomes(model)


def test_copied_dimension_is_that_of_the_middle_when_merged() -> None:
    """A 0 in the second target means 6, the second dimension of the first result, not 3."""
    model = _model(
        "m = Reshape(a, s) b = Reshape(m, t)",
        x="float[4,3]", y="float[2,6,1]", s=[2, 6], t=[2, 0, 1],
    )  # fmt: skip
    _assert_becomes(model, "Reshape")


def test_reshapes_merge_without_shapes_when_nothing_is_copied() -> None:
    model = _model(
        "m = Reshape(a, s) b = Reshape(m, t)",
        x="float[N,M]", y="float[?,2]", infer=False, s=[-1], t=[-1, 2],
    )  # fmt: skip
    result = MergeReshapes()(model)
    assert result.rewrites == {"reshape-chain": 1}
    assert op_types(model) == ["Relu", "Reshape", "Neg"]


def test_reshapes_stay_when_no_target_can_say_the_shape() -> None:
    model = _model(
        "m = Reshape(a, s) b = Reshape(m, t)",
        x="float[2,K,M]", y="float[1,N,2,M]", infer=False, s=[1, 0, -1], t=[0, 0, 2, -1],
    )  # fmt: skip
    model.graph[2].outputs[0].shape = ir.Shape([1, "N", 2, "M"])
    model.graph[0].outputs[0].shape = ir.Shape([2, "K", "M"])
    assert_refuses(MergeReshapes(), model, "no constant target")


def test_chain_stays_when_a_size_would_be_inferred_beside_one_that_can_be_zero() -> None:
    """`[0, 3, -1, 1]` says the shape, but the runtime cannot infer M if N is 0."""
    model = _model(
        "m = Squeeze(a, s) b = Unsqueeze(m, t)",
        x="float[N,1,3,M]", y="float[N,3,M,1]", s=[1], t=[3],
    )  # fmt: skip
    assert_rewrites(
        MergeReshapes(), model, expect=None, rewrites=0, rtol=0, atol=0,
        sizes=[{"N": 2, "M": 3}, {"N": 0, "M": 2}, {"N": 2, "M": 0}],
    )  # fmt: skip


def test_size_is_inferred_when_the_chain_infers_it_beside_the_same_one() -> None:
    """The model fails already where N is 0."""
    model = _model(
        "m = Reshape(a, s) b = Unsqueeze(m, t)",
        x="float[N,3,M]", y="float[N,K,1]", infer=False, s=[0, -1], t=[2],
    )  # fmt: skip
    for node, shape in zip(model.graph, (["N", 3, "M"], ["N", "K"], ["N", "K", 1]), strict=False):
        node.outputs[0].shape = ir.Shape(shape)
    _assert_becomes(model, "Reshape")


@pytest.mark.parametrize(
    ("source", "wanted", "target"),
    [
        (("N", 3), ("N", 3), (0, 3)),
        (("N", 3), (3, "N"), (3, -1)),
        (None, ("N", 3), (-1, 3)),
        (("N", "M"), ("M", "N"), None),
        (("N", None), ("N", None), None),
        (("N + 1", None), ("N + 1", None), (0, -1)),
        (("N", "M"), ("N", "M", 1), (0, 0, 1)),
        ((2, "N", "M"), (1, "N", 2, "M"), None),
        (("N", 0), ("N", 0), None),
    ],
)
def test_target_is_written_from_the_shapes(
    source: tuple[int | str | None, ...] | None,
    wanted: tuple[int | str | None, ...],
    target: tuple[int, ...] | None,
) -> None:
    assert reshape_target(source, wanted) == target


def test_target_is_written_when_its_symbols_are_known_not_to_be_zero() -> None:
    assert reshape_target((2, "N", "M"), (1, "N", 2, "M"), {"N"}) == (1, 0, 2, -1)


@pytest.mark.parametrize("opset", [13, 18])
def test_computed_target_is_kept_when_its_parts_copy_what_both_inputs_have(opset: int) -> None:
    """A size that is 0 copies: N of x and N of m are the same, the rest are constants."""
    model = parse_model(
        """g (float[N,M,4] x, float[N] z) => (float[N,?,?,2] y)
        <int64[2] rest = {-1, 2}, int64[3] split = {0, -1, 2}, int64[1] one = {1}> {
            m = Reshape(x, split) n = Shape(z) t = Concat<axis=0>(n, one, rest)
            y = Reshape(m, t)
        }""",
        opset=opset,
    )
    model.graph[0].outputs[0].shape = ir.Shape(["N", None, 2])
    assert_rewrites(
        MergeReshapes(), model, expect=["Shape", "Concat", "Reshape"],
        rewrites=1, rtol=0, atol=0, sizes=[{"N": 2, "M": 3}, {"N": 1, "M": 0}],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [[4, 6], ["P", 6], None])
def test_computed_target_stays_when_a_part_can_be_zero(shape: list[int | str] | None) -> None:
    """If k is 0, it copies the 6 of a, not the 2 of x."""
    model = parse_model(
        """g (float[2,3,4] x, int64[1] k, int64[1] l) => (float[P,Q] y) <int64[2] s = {6, 4}>
        { a = Reshape(x, s) t = Concat<axis=0>(k, l) y = Reshape(a, t) }"""
    )
    model.graph[0].outputs[0].shape = None if shape is None else ir.Shape(shape)
    assert_rewrites(
        MergeReshapes(), model, expect=None, rewrites=0, rtol=0, atol=0,
        feeds={"x": np.ones((2, 3, 4), np.float32), "k": np.array([0]), "l": np.array([4])},
    )  # fmt: skip


def test_computed_target_stays_when_it_is_a_shape_that_can_have_a_zero() -> None:
    model = parse_model(
        """g (float[2,N] x, float[M,K] z) => (float[M,K] y) <int64[1] flat = {-1}>
        { m = Reshape(x, flat) t = Shape(z) y = Reshape(m, t) }"""
    )
    model.graph[0].outputs[0].shape = ir.Shape(["L"])
    model.graph.inputs[0].shape = None
    assert_refuses(MergeReshapes(), model, "no constant target")


@pytest.mark.parametrize(("size", "kept"), [("M", False), ("M + 1", True)])
def test_computed_target_of_shapes_is_kept_when_they_are_at_least_one(
    size: str, kept: bool
) -> None:
    model = parse_model(
        """g (float[N] x, float[K] z) => (float[K,1] y) <int64[1] one = {1}, int64[2] s = {1, -1}>
        { m = Reshape(x, s) n = Shape(z) t = Concat<axis=0>(n, one) y = Reshape(m, t) }"""
    )
    model.graph.inputs[1].shape = ir.Shape([ir.SymbolicDim(size)])
    model.graph.outputs[0].shape = None
    assert MergeReshapes()(model).modified == kept


def test_computed_target_stays_when_one_part_copies() -> None:
    model = parse_model(
        """g (float[N,8] x, int64[1] n) => (float[?,?,?] y)
        <int64[1] zero = {0}, int64[2] pair = {-1, 4}> {
            m = Reshape(x, pair) t = Concat<axis=0>(n, zero, n) y = Reshape(m, t)
        }"""
    )
    assert_refuses(MergeReshapes(), model, "no constant target")


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize(
    ("first", "second", "y"),
    [
        ([0], [0], "1,1,N,M"),
        ([1], [0], "1,N,1,M"),
        ([2], [1], "N,1,M,1"),
        ([-1], [-1], "N,M,1,1"),
        ([-1], [0], "1,N,M,1"),
    ],
)
def test_unsqueezes_become_one(first: list[int], second: list[int], y: str, opset: int) -> None:
    text = "m = Unsqueeze(a, s) b = Unsqueeze(m, t)"
    constants = {"s": first, "t": second}
    if opset < 13:
        text = f"m = Unsqueeze<axes={first}>(a) b = Unsqueeze<axes={second}>(m)"
        constants = {}
    model = _model(text, x="float[N,M]", y=f"float[{y}]", opset=opset, **constants)
    _assert_becomes(model, "Unsqueeze")


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize(("first", "second"), [([0], [1]), ([-1], [0]), ([2], [-3]), ([2], [0])])
def test_squeezes_become_one(first: list[int], second: list[int], opset: int) -> None:
    shape: list[str | None] = [None] * 4
    shape[first[0]] = "1"
    left = [axis for axis in range(4) if shape[axis] is None]
    shape[left[second[0]]] = "1"
    names = iter(["N", "M"])
    x = ",".join(size or next(names) for size in shape)
    text = "m = Squeeze(a, s) b = Squeeze(m, t)"
    constants = {"s": first, "t": second}
    if opset < 13:
        text = f"m = Squeeze<axes={first}>(a) b = Squeeze<axes={second}>(m)"
        constants = {}
    model = _model(text, x=f"float[{x}]", y="float[N,M]", opset=opset, **constants)
    _assert_becomes(model, "Squeeze")


@pytest.mark.parametrize("infer", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "x", "y", "left"),
    [
        (("Unsqueeze", [1, 3]), ("Squeeze", [3]), "M,2,N", "M,1,2,N", "Unsqueeze"),
        (("Unsqueeze", [1]), ("Squeeze", [0, 2]), "1,1,N,M", "1,N,M", "Squeeze"),
        (("Squeeze", [1]), ("Unsqueeze", [0, 1]), "N,1,M", "1,1,N,M", ""),
        (("Squeeze", [1]), ("Unsqueeze", [1, 2]), "N,1,M", "N,1,1,M", "Unsqueeze"),
        (("Unsqueeze", [2]), ("Squeeze", [1]), "N,1,M", "N,1,M", "none"),
    ],
)
def test_mixture_becomes_one_of_both_when_that_is_enough(
    first: tuple[str, list[int]],
    second: tuple[str, list[int]],
    x: str,
    y: str,
    left: str,
    infer: bool,
) -> None:
    """One node without a target: nothing has to be inferred, and a size may be 0."""
    body = f"m = {first[0]}(a, s) b = {second[0]}(m, t)"
    model = _model(
        body, x=f"float[{x}]", y=f"float[{y}]", infer=infer, s=first[1], t=second[1]
    )  # fmt: skip
    middle = {"": [first[0], second[0]], "none": []}.get(left, [left])
    assert_rewrites(
        MergeReshapes(), model, expect=["Relu", *middle, "Neg"], rewrites=int(left != ""),
        rtol=0, atol=0, sizes=[{"N": 2, "M": 3}, {"N": 2, "M": 0}, {"N": 0, "M": 3}],
    )  # fmt: skip


@pytest.mark.parametrize("body", ["m = Unsqueeze(a, s) b = Squeeze(m, s)"])
def test_pair_cancels_when_shapes_are_unknown(body: str) -> None:
    model = _model(body, x="float[N,M]", y="float[N,M]", infer=False, s=[1])
    _assert_becomes(model)


def test_pair_cancels_when_a_squeeze_is_undone() -> None:
    model = _model(
        "m = Squeeze(a, s) b = Unsqueeze(m, s)",
        x="float[N,1,M]", y="float[N,1,M]", infer=False, s=[1],
    )  # fmt: skip
    _assert_becomes(model)


def test_flatten_merges_when_a_reshape_precedes_it() -> None:
    model = _model(
        "m = Reshape(a, s) b = Flatten<axis=1>(m)", x="float16[N,3,4]", y="float16[N,12]",
        s=[0, 4, 3],
    )  # fmt: skip
    _assert_becomes(model, "Reshape")


@pytest.mark.parametrize("opset", [11, 18])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_reduction_drops_its_axes_when_they_are_squeezed(op: str, opset: int) -> None:
    if opset == 11:
        body = f"m = {op}<axes=[2,-2]>(a) b = Squeeze<axes=[1,2]>(m)"
        model = _model(body, x="float[N,3,4]", y="float[N]", opset=opset)
    else:
        body = f"m = {op}(a, s) b = Squeeze(m, t)"
        model = _model(body, x="float[N,3,4]", y="float[N]", s=[2, -2], t=[1, 2])
    expect = ["Relu", op, "Neg"]
    assert_rewrites(MergeReshapes(), model, expect=expect, rewrites=1, rtol=1e-6, atol=1e-6)


def test_reduction_keeps_its_axes_when_they_are_unsqueezed() -> None:
    model = parse_model(
        """g (float[N,3,4] x) => (int64[N,1,4] y) <int64[1] s = {1}>
        { m = ArgMax<axis=1,keepdims=0>(x) y = Unsqueeze(m, s) }"""
    )
    assert_rewrites(MergeReshapes(), model, expect=["ArgMax"], rewrites=1, rtol=0, atol=0)


def test_reduction_stays_when_others_use_it() -> None:
    model = parse_model(
        """g (float[N,3,4] x) => (float[N,4] y, float[N,1,4] m) <int64[1] s = {1}>
        { m = ReduceMax(x, s) y = Squeeze(m, s) }"""
    )
    assert_rewrites(MergeReshapes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_middle_stays_when_it_is_a_graph_output_and_the_target_is_shared() -> None:
    model = parse_model(
        """g (float[N,3,4] x, float[N,12,1] z)
        => (float[N,12] m, float[N,2,6] y, float[N,12] w)
        <int64[2] s = {-1, 12}, int64[3] t = {-1, 2, 6}>
        { m = Reshape(x, s) y = Reshape(m, t) w = Reshape(z, s) }"""
    )
    expect = ["Reshape", "Reshape", "Reshape"]
    assert_rewrites(MergeReshapes(), model, expect=expect, rewrites=1, rtol=0, atol=0)
    assert model.graph.initializers["s"].const_value.numpy().tolist() == [-1, 12]


def test_subgraph_is_rewritten_when_the_chain_lies_inside() -> None:
    model = parse_model(
        """g (float[N,4] x, bool c) => (float[N,4] y) <int64[1] s = {1}> {
            y = If (c) <
                then_branch = t () => (float[N,4] p)
                { u = Unsqueeze(x, s) v = Squeeze(u, s) p = Relu(v) },
                else_branch = e () => (float[N,4] q) { q = Neg(x) }
            >
        }"""
    )
    assert_rewrites(MergeReshapes(), model, expect=["If"], rewrites=1, rtol=0, atol=0)

"""`PushTransposes`: what moves, what it costs, and random islands between Transposes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import pytest
from helpers.rewriting import assert_rewrites, op_types, parse_model

from onnxopt.passes.cleanup.min_cut import Network
from onnxopt.passes.cleanup.push_transposes import PushTransposes

_TO_NCHW, _TO_NHWC = "Transpose<perm=[0,3,1,2]>", "Transpose<perm=[0,2,3,1]>"


def _model(
    body: str,
    *,
    x: str = "float[N,2,5,3]",
    y: str = "float[N,2,5,3]",
    opset: int = 18,
    **weights: Any,
) -> ir.Model:
    arrays = {
        name: value if isinstance(value, np.ndarray) else np.asarray(value, np.int64)
        for name, value in weights.items()
    }
    model = parse_model(f"g ({x} x) => ({y} y) {{ {body} }}", arrays, opset=opset)
    ir.passes.common.ShapeInferencePass()(model)
    return model


def _assert_pushes(model: ir.Model, *expect: str, saved: int = 2, rtol: float = 0) -> None:
    assert_rewrites(
        PushTransposes(), model, expect=expect, rewrites=saved, rtol=rtol, atol=rtol,
        sizes=[{"N": 1}, {"N": 3}],
    )  # fmt: skip


def _island(middle: str) -> str:
    return f"a = {_TO_NCHW}(x) {middle} y = {_TO_NHWC}(b)"


@pytest.mark.parametrize(
    "op",
    [
        *("Relu", "Sigmoid", "Tanh", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu"),
        *("Softplus", "Neg", "Abs", "Exp", "Clip", "Identity", "Cast<to=1>"),
    ],
)
def test_pair_goes_when_an_elementwise_operator_lies_between(op: str) -> None:
    call = f"{op.split('<')[0]}"
    body = "b = Cast<to=1>(a)" if "<" in op else f"b = {call}(a)"
    _assert_pushes(_model(_island(body)), call, rtol=1e-6)


def test_bounds_of_a_clip_stay_when_it_moves() -> None:
    bounds = {"lo": np.float32(-0.5) * np.ones(()), "hi": np.ones(())}
    bounds = {name: np.asarray(bound, np.float32) for name, bound in bounds.items()}
    _assert_pushes(_model(_island("b = Clip(a, lo, hi)"), **bounds), "Clip")


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 1), (3, 1, 1), (3, 2, 5), (1, 3, 2, 5)])
@pytest.mark.parametrize("opset", [9, 13, 21])
def test_constant_is_transposed_when_a_binary_operator_moves(
    shape: tuple[int, ...], opset: int
) -> None:
    constant = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    model = _model(_island("m = Add(a, c) b = Mul(c, m)"), opset=opset, c=constant)
    _assert_pushes(model, "Add", "Mul")


def test_shared_constant_keeps_its_value_when_one_reader_moves() -> None:
    constant = np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,3,2,5] z) => (float[N,2,5,3] y, float[N,3,2,5] w)
        {{ {_island("b = Add(a, c)")} w = Add(z, c) }}""",
        {"c": constant},
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Add", "Add")
    kept = model.graph.initializers["c"].const_value
    assert kept is not None
    np.testing.assert_array_equal(kept.numpy(), constant)


def test_operands_meet_when_both_were_transposed() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,2,5,3] z) => (float[N,2,5,3] y) {{
            a = {_TO_NCHW}(x) d = {_TO_NCHW}(z) s = Sigmoid(d) b = Mul(a, s) y = {_TO_NHWC}(b)
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Sigmoid", "Mul", saved=3)


def test_transposes_move_when_two_become_one() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,2,5,3] z) => (float[N,3,2,5] y)
        {{ a = {_TO_NCHW}(x) d = {_TO_NCHW}(z) y = Mul(a, d) }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Mul", "Transpose", saved=1)


def test_transposes_stay_when_moving_them_saves_none() -> None:
    model = _model(f"a = {_TO_NCHW}(x) y = Relu(a)", y="float[N,3,2,5]")
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_transposes_stay_when_the_other_operand_would_need_one_each() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,3,2,5] z, float[N,3,2,5] w) => (float[N,2,5,3] y) {{
            a = {_TO_NCHW}(x) d = Add(a, z) b = Mul(d, w) y = {_TO_NHWC}(b)
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_middle_is_transposed_back_when_it_is_a_graph_output_of_a_long_island() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,2,5,3] z)
        => (float[N,2,5,3] y, float[N,3,2,5] m) {{
            a = {_TO_NCHW}(x) d = {_TO_NCHW}(z) m = Add(a, d) b = Relu(m) y = {_TO_NHWC}(b)
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Add", "Transpose", "Relu", saved=2)


@pytest.mark.parametrize(
    ("middle", "weights", "expect", "y"),
    [
        ("b = Concat<axis=1>(a, a)", {}, "Concat", "float[N,2,5,6]"),
        ("b = Concat<axis=-1>(a, a)", {}, "Concat", "float[N,2,10,3]"),
        ("b = Softmax<axis=1>(a)", {}, "Softmax", None),
        ("b = ReduceMean<keepdims=1>(a, ax)", {"ax": [2, -1]}, "ReduceMean", "float[N,1,1,3]"),
        ("b = ArgMax<axis=1>(a)", {}, "ArgMax", "int64[N,2,5,1]"),
        ("b = Pad(a, p)", {"p": [0, 0, 1, 2, 0, 0, 0, 3]}, "Pad", "float[N,3,10,3]"),
        ("b = Pad(a, p, , ax)", {"p": [1, 2], "ax": [-1]}, "Pad", "float[N,2,8,3]"),
        ("b = Slice(a, s, e, ax)", {"s": [1], "e": [4], "ax": [3]}, "Slice", "float[N,2,3,3]"),
        (
            "b = Slice(a, s, e)", {"s": [0, 1], "e": [9, 3]}, "Slice", "float[N,2,5,2]",
        ),
        ("b = Tile(a, r)", {"r": [1, 2, 1, 3]}, "Tile", "float[N,2,15,6]"),
        ("b = Expand(a, r)", {"r": [1, 3, 1, 1]}, "Expand", None),
        ("b = Gather<axis=1>(a, i)", {"i": [2, 0]}, "Gather", "float[N,2,5,2]"),
    ],
)  # fmt: skip
def test_axes_are_renumbered_when_an_operator_has_them(
    middle: str, weights: dict[str, list[int]], expect: str, y: str | None
) -> None:
    model = _model(_island(middle), y=y or "float[N,2,5,3]", **weights)
    _assert_pushes(model, expect, rtol=1e-6)


@pytest.mark.parametrize("opset", [11, 13])
def test_split_moves_when_all_its_outputs_are_transposed_back(opset: int) -> None:
    split = "p, q, r = Split<axis=1>(a)"
    model = _model(
        f"a = {_TO_NCHW}(x) {split} u = {_TO_NHWC}(p) v = {_TO_NHWC}(q) w = {_TO_NHWC}(r)"
        " s = Add(u, v) y = Mul(s, w)",
        y="float[N,2,5,1]",
        opset=opset,
    )
    _assert_pushes(model, "Split", "Add", "Mul", saved=4)


@pytest.mark.parametrize(
    ("body", "y", "weights", "opset"),
    [
        ("y = ReduceMean<keepdims=0>(a, ax)", "float[N,3]", {"ax": [2, 3]}, 18),
        ("y = ReduceMax<keepdims=0, axes=[2,3]>(a)", "float[N,3]", {}, 13),
        ("y = ArgMax<axis=1, keepdims=0>(a)", "int64[N,2,5]", {}, 18),
        ("y = ReduceSum<keepdims=0>(a)", "float", {}, 18),
    ],
)
def test_transpose_goes_when_the_layout_does_not_reach_the_output(
    body: str, y: str, weights: dict[str, list[int]], opset: int
) -> None:
    model = _model(f"a = {_TO_NCHW}(x) {body}", y=y, opset=opset, **weights)
    _assert_pushes(model, body.split()[2].split("<")[0].split("(")[0], saved=1, rtol=1e-5)


def test_transpose_stays_when_the_axes_left_change_places() -> None:
    model = _model(f"a = {_TO_NCHW}(x) y = ReduceMean<keepdims=0>(a, ax)", y="float[N,3,5]", ax=[2])
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_squeeze_and_reshape_end_a_layout_when_only_ones_move() -> None:
    for last, weights in (("Squeeze(b, w)", [2, 3]), ("Reshape(b, w)", [-1, 3])):
        model = _model(
            f"a = {_TO_NCHW}(x) b = Relu(a) y = {last}", x="float[N,1,1,3]", y="float[N,3]",
            w=weights,
        )  # fmt: skip
        _assert_pushes(model, "Relu", last.split("(")[0], saved=1)


@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 11), (3, 11)])
def test_softmax_stays_when_it_would_leave_the_last_axis(axis: int, opset: int) -> None:
    model = _model(_island(f"b = Softmax<axis={axis}>(a)"), opset=opset)
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


def test_matmul_and_layer_norm_move_when_the_last_axis_stays() -> None:
    rng = np.random.default_rng(0)
    model = _model(
        """a = Transpose<perm=[1,0,2]>(x) m = MatMul(a, w) l = LayerNormalization(m, s)
        b = Add(m, l) y = Transpose<perm=[1,0,2]>(b)""",
        x="float[N,5,3]",
        y="float[N,5,4]",
        w=rng.standard_normal((3, 4)).astype(np.float32),
        s=np.ones(4, np.float32),
    )
    _assert_pushes(model, "MatMul", "LayerNormalization", "Add", rtol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantization_moves_with_its_axis(per_channel: bool) -> None:
    scale = np.array([0.1, 0.2, 0.3] if per_channel else 0.1, np.float32)
    zero = np.zeros(scale.shape, np.uint8)
    middle = "q = QuantizeLinear<axis=1>(a, s, z) b = DequantizeLinear<axis=1>(q, s, z)"
    model = _model(_island(middle), s=scale, z=zero)
    _assert_pushes(model, "QuantizeLinear", "DequantizeLinear")


def test_transpose_merges_when_another_permutation_follows_the_island() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,2,5,3] z) => (float[2,5,3,N] y) {{
            a = {_TO_NCHW}(x) d = {_TO_NCHW}(z) b = Add(a, d) y = Transpose<perm=[2,3,1,0]>(b)
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Add", "Transpose", saved=2)


def test_subgraph_reader_gets_the_old_layout_when_an_island_moves() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, float[N,2,5,3] z, bool c)
        => (float[N,2,5,3] y, float[N,3,2,5] w) {{
            a = {_TO_NCHW}(x) d = {_TO_NCHW}(z) m = Add(a, d) y = {_TO_NHWC}(m)
            w = If (c) <
                then_branch = t () => (float[N,3,2,5] p) {{ p = Relu(m) }},
                else_branch = e () => (float[N,3,2,5] q) {{ q = Neg(m) }}
            >
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "Add", "Transpose", "If", saved=2)


def test_island_inside_a_subgraph_moves() -> None:
    model = parse_model(
        f"""g (float[N,2,5,3] x, bool c) => (float[N,2,5,3] y) {{
            y = If (c) <
                then_branch = t () => (float[N,2,5,3] p)
                {{ a = {_TO_NCHW}(x) b = Relu(a) p = {_TO_NHWC}(b) }},
                else_branch = e () => (float[N,2,5,3] q) {{ q = Neg(x) }}
            >
        }}"""
    )
    ir.passes.common.ShapeInferencePass()(model)
    _assert_pushes(model, "If")


def test_nothing_moves_when_the_rank_is_unknown() -> None:
    model = parse_model(
        f"g (float[N,2,5,3] x) => (float[N,2,5,3] y) {{ {_island('b = Relu(a)')} }}"
    )
    assert not PushTransposes()(model).modified


def test_nothing_moves_when_a_constant_or_unknown_value_is_transposed() -> None:
    model = parse_model(
        """g (float[3,3] x) => (float[3,3] y, float[3,3] z)
        { a = Transpose<perm=[1,0]>(c) y = Mul(x, a) b = Transpose<perm=[1,0]>(y) z = Relu(b) }""",
        {"c": np.ones((3, 3), np.float32)},
    )
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=0, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(25))
def test_random_islands_keep_their_outputs_and_get_no_more_transposes(seed: int) -> None:
    rng = random.Random(seed)
    perms = ([0, 2, 1], [1, 0, 2], [2, 0, 1], [1, 2, 0])
    values = ["x"]
    lines = []
    for number in range(14):
        name, kind = f"v{number}", rng.random()
        if kind < 0.5:
            lines.append(f"{name} = Transpose<perm={rng.choice(perms)}>({rng.choice(values[-4:])})")
        elif kind < 0.7:
            lines.append(f"{name} = Relu({rng.choice(values[-4:])})")
        else:
            one, other = rng.choice(values[-4:]), rng.choice(values[-4:])
            lines.append(f"{name} = Add({one}, {rng.choice([other, 'c'])})")
        values.append(name)
    outputs = ", ".join(f"float[3,3,3] {value}" for value in rng.sample(values[1:], 3))
    text = f"g (float[3,3,3] x) => ({outputs}) {{ {' '.join(lines)} }}"
    model = parse_model(
        text, {"c": np.arange(9, dtype=np.float32).reshape(3, 3)} if ", c)" in text else {}
    )
    ir.passes.common.RemoveUnusedNodesPass()(model)
    ir.passes.common.ShapeInferencePass()(model)
    before = op_types(model).count("Transpose")
    expected = PushTransposes()(model.clone()).rewrites.total()
    assert_rewrites(PushTransposes(), model, expect=None, rewrites=expected, rtol=1e-6, atol=1e-6)
    assert op_types(model).count("Transpose") == before - expected


def test_cut_is_the_cheapest_when_there_are_several() -> None:
    network = Network()
    edges = [("s", "a", 3), ("s", "b", 2), ("a", "b", 1), ("a", "t", 2), ("b", "t", 3)]
    for start, end, capacity in edges:
        network.add(start, end, capacity)
    assert network.cut("s", "t") == (5, {"s"})
    alone = Network()
    alone.add("a", "t", 1)
    assert alone.cut("s", "t") == (0, {"s"})

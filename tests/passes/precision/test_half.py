"""ConvertToHalf: where the type changes, where casts stand, and what stays in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.rewriting import op_types, parse_model, run

from onnxopt.core.passes import PassResult
from onnxopt.graph.inference import infer_model
from onnxopt.passes.precision import ConvertToHalf

_RNG = np.random.default_rng(0)


def _weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {n: _RNG.standard_normal(s).astype(np.float32) * 0.3 for n, s in shapes.items()}


def _convert(model: ir.Model, **options: Any) -> PassResult:
    result = ConvertToHalf(**options)(model)
    assert isinstance(result, PassResult)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if not options.get("io_types"):
        assert not ConvertToHalf(**options)(model).rewrites["node"]
    return result


def _close(model: ir.Model, wanted: list[Any], feeds: dict[str, Any], rtol: float = 5e-3) -> None:
    for found, expected in zip(run(model, feeds), wanted, strict=True):
        assert found.dtype == expected.dtype
        assert np.linalg.norm(found - expected) <= rtol * np.linalg.norm(expected)


def _chain() -> ir.Model:
    return parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w)  b = Relu(a)  y = Add(b, c) }",
        _weights(w=(8, 8), c=(8,)),
    )


def test_casts_stand_only_at_the_borders_and_names_stay() -> None:
    model = _chain()
    feeds = {"x": _RNG.standard_normal((3, 8)).astype(np.float32)}
    wanted = run(model, feeds)
    result = _convert(model)
    assert op_types(model) == ["Cast", "MatMul", "Relu", "Add", "Cast"]
    assert result.rewrites == {"node": 3, "cast": 2}
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]
    assert {v.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    _close(model, wanted, feeds)


def test_inputs_and_outputs_change_with_io_types() -> None:
    model = _chain()
    _convert(model, io_types=True)
    assert op_types(model) == ["MatMul", "Relu", "Add"]
    x = _RNG.standard_normal((3, 8)).astype(np.float16)
    assert run(model, {"x": x})[0].dtype == np.float16


def test_what_is_kept_is_cast_to_float32_and_back() -> None:
    model = _chain()
    result = _convert(model, keep=("b",))
    assert op_types(model) == ["Cast", "MatMul", "Cast", "Relu", "Cast", "Add", "Cast"]
    assert [(r.node, r.reason) for r in result.refusals] == [("b", "it is to stay in float32")]


@pytest.mark.parametrize(
    ("number", "reason"), [(1e5, "beyond the range"), (1e-12, "too close to zero")]
)
def test_constants_that_float16_cannot_hold_keep_their_node(number: float, reason: str) -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = Relu(x)  b = Add(a, e)  y = Relu(b) }",
        {"e": np.array(number, np.float32)},
    )
    result = _convert(model)
    assert reason in result.refusals[0].reason
    assert model.graph.initializers["e"].dtype == ir.DataType.FLOAT
    x = np.zeros((1, 8), np.float32)
    assert not np.isnan(run(model, {"x": x})[0]).any()


def test_masks_become_finite() -> None:
    model = parse_model(
        "g (bool[N,8] m, float[N,8] x) => (float[N,8] y)"
        "{ a = Where(m, zero, low)  b = Add(a, x)  y = Softmax<axis=-1>(b) }",
        {"zero": np.array(0, np.float32), "low": np.array(-3.4028235e38, np.float32)},
    )
    feeds = {"m": np.eye(3, 8) > 0, "x": _RNG.standard_normal((3, 8)).astype(np.float32)}
    wanted = run(model, feeds)
    _convert(model)
    _close(model, wanted, feeds)
    feeds["m"][:] = False  # a row that is masked as a whole
    assert np.isfinite(run(model, feeds)[0]).all()


def test_a_weight_that_both_types_read_exists_in_both() -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w)  y = MatMul(a, w) }",
        _weights(w=(8, 8)),
    )
    _convert(model, keep=("a",))
    types = {v.dtype for v in model.graph.initializers.values()}
    assert types == {ir.DataType.FLOAT, ir.DataType.FLOAT16}


def test_a_shape_keeps_no_second_copy_of_a_weight() -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y, int64[2] s) { y = MatMul(x, w)  s = Shape(w) }",
        _weights(w=(8, 8)),
    )
    _convert(model)
    assert [v.dtype for v in model.graph.initializers.values()] == [ir.DataType.FLOAT16]
    found = run(model, {"x": np.zeros((1, 8), np.float32)})
    assert found[1].tolist() == [8, 8]


def test_scales_of_resize_stay_float32() -> None:
    model = parse_model(
        'g (float[1,2,4,4] x) => (float[1,2,8,8] y) { y = Resize<mode="linear">(x, , s) }',
        {"s": np.array([1, 1, 2, 2], np.float32)},
    )
    _convert(model)
    assert model.graph.initializers["s"].dtype == ir.DataType.FLOAT
    x = _RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    assert run(model, {"x": x})[0].shape == (1, 2, 8, 8)


def test_bodies_are_converted_between_float32_borders() -> None:
    model = parse_model(
        "g (bool c, float[N,8] x) => (float[N,8] y) {"
        " h = Relu(x)"
        " r = If(c) <then_branch = a () => (float[N,8] u) { t = Mul(h, h)  u = Sigmoid(t) },"
        "  else_branch = b () => (float[N,8] v) { v = Neg(h) }>"
        " y = Add(r, h) }"
    )
    feeds = {"c": np.array(True), "x": _RNG.standard_normal((3, 8)).astype(np.float32)}
    for truth in (True, False):
        feeds["c"] = np.array(truth)
        wanted = run(model, feeds)
        converted = model.clone()
        result = _convert(converted)
        assert result.rewrites["node"] == 5
        _close(converted, wanted, feeds)


def test_loops_carry_float32() -> None:
    model = parse_model(
        "g (int64 n, float[4] x) => (float[4] y) {"
        " t = Constant<value = bool {1}>()"
        " y = Loop(n, t, x) <body = b (int64 i, bool k, float[4] s) => (bool k2, float[4] s2)"
        " { k2 = Identity(k)  p = Mul(s, s)  s2 = Sigmoid(p) }> }"
    )
    feeds = {"n": np.array(3), "x": _RNG.standard_normal(4).astype(np.float32)}
    wanted = run(model, feeds)
    result = _convert(model)
    assert result.rewrites["node"] == 2
    _close(model, wanted, feeds)


def test_types_that_nodes_state_follow() -> None:
    model = parse_model(
        "g (int64[N] i) => (float[N] y) { f = Cast<to=1>(i)  s = Shape(f)"
        " z = ConstantOfShape<value = float[1] {2.0}>(s)  y = Mul(f, z) }"
    )
    feeds = {"i": np.arange(5)}
    wanted = run(model, feeds)
    assert _convert(model).rewrites == {"node": 3, "cast": 1}
    _close(model, wanted, feeds)


def test_quantized_parts_and_sequences_stay() -> None:
    model = parse_model(
        "g (float[4] x) => (float[4] y) { q = QuantizeLinear(x, s, z)"
        " d = DequantizeLinear(q, s, z)"
        " l = SequenceConstruct(d, d)  e = SequenceAt(l, o)  y = Relu(e) }",
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "o": np.array(1)},
    )
    feeds = {"x": _RNG.standard_normal(4).astype(np.float32)}
    wanted = run(model, feeds)
    result = _convert(model)
    assert result.rewrites["node"] == 1
    _close(model, wanted, feeds)


def test_bfloat16_is_taken_where_the_opset_has_it() -> None:
    old = _chain()
    old.opset_imports[""] = 11
    result = ConvertToHalf(to="bfloat16")(old)
    assert not result.modified
    assert any("no BFLOAT16 at this opset" in refusal.reason for refusal in result.refusals)
    new = _chain()
    _convert(new, to="bfloat16")
    assert {v.dtype for v in new.graph.initializers.values()} == {ir.DataType.BFLOAT16}


def test_storage_only_halves_weights_and_keeps_the_arithmetic() -> None:
    model = parse_model(
        "g (float[N,64] x) => (float[N,64] y) { a = MatMul(x, w)  y = Add(a, c) }",
        _weights(w=(64, 64), c=(64,)),
    )
    feeds = {"x": _RNG.standard_normal((3, 64)).astype(np.float32)}
    wanted = run(model, feeds)
    result = _convert(model, storage=True)
    assert result.rewrites == {"weight": 1}
    assert op_types(model) == ["Cast", "MatMul", "Add"]
    _close(model, wanted, feeds, 1e-3)


def test_normalization_of_the_runtime_is_converted_without_its_statistics() -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y) { n, s = SimplifiedLayerNormalization(x, c) "
        "w = Mul(n, s) y = Relu(w) }",
        _weights(c=(8,)),
    )
    infer_model(model)
    feeds = {"x": _RNG.standard_normal((3, 8)).astype(np.float32)}
    wanted = run(model, feeds)
    ConvertToHalf()(model)
    norm = next(node for node in model.graph if "Norm" in node.op_type)
    assert [value.dtype for value in norm.inputs if value is not None] == [ir.DataType.FLOAT16] * 2
    assert norm.outputs[1].dtype == ir.DataType.FLOAT
    _close(model, wanted, feeds)

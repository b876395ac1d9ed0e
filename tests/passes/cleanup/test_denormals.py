"""FlushDenormals: which numbers, which tensors, and what is left alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model

from onnxopt.passes.cleanup import denormals
from onnxopt.passes.cleanup.denormals import FlushDenormals

_MIXED = [1.0, 1e-40, -1e-45, 0.0, -0.0, 1.1754944e-38, -2.0, 1.1754942e-38]


def _weight(dtype: type = np.float32) -> np.ndarray:
    return np.array(_MIXED, dtype)


def _scaled(op: str = "Mul(x, w)", weight: np.ndarray | None = None) -> ir.Model:
    w = _weight() if weight is None else weight
    return parse_model(f"g (float[N,8] x) => (float[N,8] y) {{ y = {op} }}", {"w": w})


def test_denormals_become_zero_with_their_sign_and_all_else_stays() -> None:
    model = _scaled()
    result = assert_rewrites(
        FlushDenormals(), model, expect=["Mul"], rewrites={"denormal-weight": 1},
        rtol=0, atol=1e-36,
    )  # fmt: skip
    assert not result.refusals
    flushed = model.graph.initializers["w"].const_value.numpy()
    wanted = np.array([1.0, 0.0, -0.0, 0.0, -0.0, 1.1754944e-38, -2.0, 0.0], np.float32)
    np.testing.assert_array_equal(flushed.view("u4"), wanted.view("u4"))


def test_infinities_and_nans_stay() -> None:
    w = np.array([np.inf, -np.inf, np.nan, 1e-40], np.float32)
    model = parse_model("g (float[4] x) => (float[4] y) { y = Mul(x, w) }", {"w": w})
    FlushDenormals()(model)
    flushed = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(flushed[:3].view("u4"), w[:3].view("u4"))
    assert flushed[3] == 0


def test_float64_has_its_own_denormals() -> None:
    w = np.array([1e-40, 1e-310, 1.0], np.float64)
    model = parse_model("g (double[3] x) => (double[3] y) { y = Mul(x, w) }", {"w": w})
    assert_rewrites(FlushDenormals(), model, expect=None, rewrites=1, rtol=0, atol=1e-300)
    np.testing.assert_array_equal(
        model.graph.initializers["w"].const_value.numpy(), [1e-40, 0, 1.0]
    )


def test_bfloat16_is_flushed_and_float16_is_not() -> None:
    for dtype, changed in ((ml_dtypes.bfloat16, True), (np.float16, False)):
        w = np.array([1e-39 if changed else 6e-8, 1.0], dtype)
        name = "bfloat16" if changed else "float16"
        model = parse_model(f"g ({name}[2] x) => ({name}[2] y) {{ y = Mul(x, w) }}", {"w": w})
        assert FlushDenormals()(model).modified is changed
        kept = model.graph.initializers["w"].const_value
        assert kept.dtype == ir.DataType[name.upper()]
        assert bool(kept.numpy()[0] == 0) is changed


def test_model_without_denormals_keeps_its_tensor_objects() -> None:
    model = _scaled(weight=np.ones(8, np.float32))
    before = model.graph.initializers["w"].const_value
    assert not FlushDenormals()(model).modified
    assert model.graph.initializers["w"].const_value is before


def test_shared_tensor_is_not_overwritten() -> None:
    array = _weight()
    tensor = ir.tensor(array, name="w")
    model = _scaled()
    model.graph.initializers["w"].const_value = tensor
    FlushDenormals()(model)
    np.testing.assert_array_equal(tensor.numpy().view("u4"), _weight().view("u4"))
    assert model.graph.initializers["w"].const_value is not tensor


def test_constants_and_branches_are_flushed_too() -> None:
    model = parse_model(
        """g (float[N,2] x, bool c) => (float[N,2] y) {
            k = Constant<value = float[2] {1e-40, 1}>() a = Mul(x, k)
            y = If (c) <
                then_branch = t () => (float[N,2] p) <float[2] w = {1e-40, 2}> { p = Add(a, w) },
                else_branch = e () => (float[N,2] q) { q = Neg(a) }
            >
        }"""
    )
    assert_rewrites(FlushDenormals(), model, expect=None, rewrites=2, rtol=0, atol=1e-36)


@pytest.mark.parametrize(
    "op",
    ["Div(x, w)", "Div(w, x)", "Max(x, w)", "Min(w, x)", "Pow(w, x)"],
)
def test_weight_is_refused_when_zero_means_something_else_to_its_user(op: str) -> None:
    assert_refuses(FlushDenormals(), _scaled(op), "zero may be a different thing")


def test_weight_is_refused_when_a_reshaped_copy_of_it_divides() -> None:
    model = parse_model(
        """g (float[N,8] x) => (float[N,8] y) {
            s = Constant<value_ints = [1, 8]>() r = Reshape(w, s) y = Div(x, r)
        }""",
        {"w": _weight()},
    )
    assert_refuses(FlushDenormals(), model, "to its user Div")


@pytest.mark.parametrize(
    ("users", "reason"),
    [
        ("y = Ceil(a)", "to its user Ceil"),
        ("b = Cast <to = 9> (a) y = Cast <to = 1> (b)", "to its user Cast"),
        ("y = Div(x, a)", "to its user Div"),
        ("t = Transpose(a) c = Concat <axis = 0> (x, t) y = Sign(c)", "to its user Sign"),
        ("y = Identity(a)", "moved to a graph output"),
    ],
)
def test_weight_is_refused_when_a_gathered_part_of_it_is_used_otherwise(
    users: str, reason: str
) -> None:
    model = parse_model(
        f"g (int64[4] i, float[4] x) => (float[M] y) {{ a = Gather(w, i) {users} }}",
        {"w": _weight()},
    )
    assert_refuses(FlushDenormals(), model, reason)


@pytest.mark.parametrize(
    ("users", "shape"),
    [
        ("y = MatMul(x, w)", (8, 3)),
        ("y = Gemm(x, w)", (8, 3)),
        ("t = Transpose(w) y = MatMul(x, t)", (3, 8)),
        ("c = Cast <to = 1> (w) y = MatMul(x, c)", (8, 3)),
        ("p, q = Split <axis = 1, num_outputs = 2> (w) c = Concat <axis = 0> (p, q, p, q) "
         "y = MatMul(x, c)", (2, 6)),
        ("y = LayerNormalization(x, w, w)", (8,)),
        ("y = PRelu(x, w)", (8,)),
        ("y = com.microsoft.FusedMatMul(x, w)", (8, 3)),
    ],
)  # fmt: skip
def test_weight_is_flushed_when_it_is_only_added_or_multiplied(
    users: str, shape: tuple[int, ...]
) -> None:
    w = np.resize(_weight(), shape)
    model = parse_model(f"g (float[N,8] x) => (float[N,M] y) {{ {users} }}", {"w": w})
    result = assert_rewrites(
        FlushDenormals(), model, expect=None, rewrites=1, rtol=0, atol=1e-36, check=False
    )
    assert not result.refusals


def test_weights_of_convolutions_and_recurrent_layers_are_flushed() -> None:
    model = parse_model(
        """g (float[1,2,5,5] x, float[3,1,2] s) => (float[1,2,4,4] y, float[3,1,1,2] z) {
            y = Conv(x, c) z, h, l = LSTM <hidden_size = 2> (s, w, r)
        }""",
        {
            "c": np.resize(_weight(), (2, 2, 2, 2)),
            "w": np.resize(_weight(), (1, 8, 2)),
            "r": np.resize(_weight(), (1, 8, 2)),
        },
    )
    assert_rewrites(FlushDenormals(), model, expect=None, rewrites=3, rtol=0, atol=1e-36)


def test_weight_is_refused_when_one_of_its_users_looks_closer() -> None:
    model = parse_model(
        """g (float[N,8] x) => (float[N,8] y, bool[8] z)
        { y = Mul(x, w) o = Abs(w) z = Cast <to = 9> (o) }""",
        {"w": _weight()},
    )
    assert_refuses(FlushDenormals(), model, "to its user Abs")


def test_single_number_is_refused() -> None:
    model = _scaled("Add(x, w)", np.array([1e-40], np.float32))
    assert_refuses(FlushDenormals(), model, "a single number")


def test_graph_input_and_output_are_refused() -> None:
    model = parse_model(
        """g (float[2] x, float[2] w) => (float[2] y, float[2] u)
        <float[2] w = {1e-40, 1}, float[2] u = {1e-40, 1}> { a = Mul(x, w) y = Mul(a, u) }"""
    )
    assert_refuses(FlushDenormals(), model, "graph input")
    assert_refuses(FlushDenormals(), model, "graph output")


def test_large_tensor_is_computed_from_the_original_whenever_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denormals, "_LAZY_BYTES", 8)
    model = _scaled()
    assert_rewrites(FlushDenormals(), model, expect=None, rewrites=1, rtol=0, atol=1e-36)
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)


def test_last_element_counts_when_the_tensor_spans_several_chunks() -> None:
    w = np.ones(200_000, np.float32)
    w[-1] = 1e-40
    model = parse_model("g (float[1] x) => (float[200000] y) { y = Mul(x, w) }", {"w": w})
    assert_rewrites(FlushDenormals(), model, expect=None, rewrites=1, rtol=0, atol=1e-36)
    flushed = model.graph.initializers["w"].const_value.numpy()
    assert flushed[-1] == 0
    assert flushed[:-1].all()

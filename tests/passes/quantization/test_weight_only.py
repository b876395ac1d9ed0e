"""QuantizeWeights: the integers of ONNX Runtime's quantizer, the operators, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from onnxopt.core.errors import InvalidInputError, OnnxOptError
from onnxopt.core.passes import PassResult
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model
from onnxopt.passes.quantization import QuantizeWeights

_RNG = np.random.default_rng(0)


def _normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(dtype)


def _matmul(weight: np.ndarray, opset: int = 21) -> ir.Model:
    rows, columns = weight.shape
    name = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}[str(weight.dtype)]
    text = f"g ({name}[N,{rows}] x) => ({name}[N,{columns}] y) {{ y = MatMul(x, w) }}"
    return parse_model(text, {"w": weight}, opset=opset)


def _three(opset: int = 21) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """MatMul, Gemm with a transposed weight and a bias, Gather; no block size divides 172."""
    model = parse_model(
        "g (int64[A,B] i, float[A,172] x) => (float[A,B,40] y, float[A,40] z)"
        "{ e = Gather(t, i)  y = MatMul(e, w)  z = Gemm<transB=1>(x, g, b) }",
        {"w": _normal(172, 40), "g": _normal(40, 172), "t": _normal(60, 172), "b": _normal(40)},
        opset=opset,
    )
    return model, {"i": _RNG.integers(0, 60, (2, 3)), "x": _normal(2, 172)}


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _quantize(model: ir.Model, **options: Any) -> PassResult:
    result = QuantizeWeights(**options)(model)
    assert isinstance(result, PassResult)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    again = QuantizeWeights(**options)(model)
    assert not again.modified
    return result


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_every_byte_is_that_of_onnxruntimes_quantizer(
    bits: int, symmetric: bool, block_size: int
) -> None:
    weight = _normal(320, 70)  # 320 is no multiple of 128
    weight[:, :8] = np.round(weight[:, :8] * 4) / 4  # ties
    weight[:64, 3] = 0
    weight[:, 4] = np.abs(weight[:, 4])
    model = _matmul(weight)
    other = MatMulNBitsQuantizer(
        ir.to_proto(model), bits=bits, block_size=block_size, is_symmetric=symmetric
    )
    other.process()
    wanted = {t.name: onnx.numpy_helper.to_array(t) for t in other.model.model.graph.initializer}
    _quantize(model, bits=bits, block_size=block_size, symmetric=symmetric)
    found = {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}
    np.testing.assert_array_equal(found[f"w_data{bits}"], wanted[f"w_Q{bits}"])
    np.testing.assert_array_equal(found["w_scales"], wanted["w_scales"])
    assert ("w_zeros" in found) == (not symmetric)
    if not symmetric:
        np.testing.assert_array_equal(found["w_zeros"], wanted["w_zero_points"])


@pytest.mark.parametrize("format_", ["operators", "standard"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block_size", [16, 128])
def test_onnxruntime_computes_with_the_rounded_weights(
    format_: Any, bits: int, symmetric: bool, block_size: int
) -> None:
    model, feeds = _three()
    floats = run(model, feeds)
    result = _quantize(
        model,
        bits=bits,
        block_size=block_size,
        symmetric=symmetric,
        format=format_,
        accuracy_level=0,
    )
    assert sum(result.rewrites.values()) == 3
    for found, wanted in zip(run(model, feeds), floats, strict=True):
        assert 0 < _relative(found, wanted) < (0.25 if bits == 4 else 0.015)


def test_both_formats_stand_for_the_same_numbers() -> None:
    one, feeds = _three()
    other = one.clone()
    _quantize(one, bits=8, block_size=32, accuracy_level=0)
    _quantize(other, bits=8, block_size=32, format="standard")
    for a, b in zip(run(one, feeds), run(other, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_scale_a_channel_in_standard_operators(symmetric: bool) -> None:
    model, feeds = _three()
    floats = run(model, feeds)
    result = _quantize(model, bits=8, block_size=0, format="standard", symmetric=symmetric)
    assert result.rewrites == {"product in 8 bits": 2}
    assert [refusal.node for refusal in result.refusals] == ["t"]
    for found, wanted in zip(run(model, feeds), floats, strict=True):
        assert 0 < _relative(found, wanted) < 0.02


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_scales_have_the_type_of_the_weight(dtype: Any) -> None:
    model = _matmul(_normal(128, 64, dtype=dtype))
    _quantize(model, bits=8, symmetric=True)
    assert model.graph.initializers["w_scales"].dtype == ir.tensor(np.zeros(1, dtype)).dtype
    if dtype == np.float16:
        x = _normal(3, 128, dtype=dtype)
        floats = run(_matmul(_RNG.standard_normal((128, 64)).astype(dtype)), {"x": x})
        assert run(model, {"x": x})[0].dtype == floats[0].dtype


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_has_no_larger_error_than_rtn_in_any_block(symmetric: bool) -> None:
    weight = _normal(256, 40)
    weight[3::50] *= 6
    errors = {}
    for method in ("rtn", "mse"):
        model = _matmul(weight)
        _quantize(model, method=method, symmetric=symmetric, format="standard")
        values = run(model, {"x": np.eye(256, dtype=np.float32)})[0]
        errors[method] = np.square(values - weight).reshape(8, 32, 40).sum(1)
    assert (errors["mse"] <= errors["rtn"] * (1 + 1e-5)).all()
    assert errors["mse"].sum() < 0.96 * errors["rtn"].sum()


def test_hqq_has_a_smaller_norm_of_the_error_than_rtn() -> None:
    weight = _normal(256, 40)
    norms = []
    for method in ("rtn", "hqq"):
        model = _matmul(weight)
        _quantize(model, method=method, format="standard")
        values = run(model, {"x": np.eye(256, dtype=np.float32)})[0]
        norms.append((np.abs(values - weight) ** 0.7).sum())
    assert norms[1] < norms[0]


def test_a_table_that_is_the_output_head_too_is_stored_for_both() -> None:
    model = parse_model(
        "g (int64[A] i) => (float[A,80] y) { e = Gather(t, i)  y = Gemm<transB=1>(e, t) }",
        {"t": _normal(80, 64)},
    )
    result = _quantize(model)
    assert result.rewrites == {"product in 4 bits": 1, "lookup in 4 bits": 1}
    assert "t" not in model.graph.initializers
    assert run(model, {"i": np.arange(5)})[0].shape == (5, 80)


def test_users_in_a_subgraph_read_the_weight_outside() -> None:
    model = parse_model(
        "g (bool c, float[N,64] x) => (float[N,64] y) {"
        " y = If(c) <then_branch = a () => (float[N,64] u) { u = MatMul(x, w) },"
        "  else_branch = b () => (float[N,64] v) { v = Relu(x) }> }"
    )
    (then, _) = (a.as_graph() for a in next(iter(model.graph)).attributes.values())
    used = next(iter(then)).inputs[1]
    outer = ir.Value(name="w", const_value=ir.tensor(_normal(64, 64), name="w"))
    model.graph.initializers["w"] = outer
    next(iter(then)).replace_input_with(1, outer)
    assert used is not outer
    _quantize(model, smallest=16)
    assert set(model.graph.initializers) == {"w_data4", "w_scales", "w_zeros"}
    assert run(model, {"c": np.array(True), "x": _normal(2, 64)})[0].shape == (2, 64)


_LEFT_ALONE = {
    "MatMul(w, x)": "left side",
    "MatMul(x, w)  z = Relu(w)": "also used by Relu",
    "Gemm<alpha=0.5>(x, w)": "alpha",
    "Gemm<transA=1>(x, w)": "transposes",
    "Gather<axis=1>(w, i)  z = MatMul(x, w)": "columns",
}


@pytest.mark.parametrize(("nodes", "reason"), _LEFT_ALONE.items())
def test_weights_are_left_alone_with_the_reason(nodes: str, reason: str) -> None:
    model = parse_model(
        f"g (float[64,64] x, int64[2] i) => (float[M,N] y) {{ y = {nodes} }}",
        {"w": _normal(64, 64)},
    )
    result = _quantize(model)
    assert not result.modified
    assert reason in result.refusals[0].reason
    assert result.refusals[0].node == "w"


def test_small_excluded_and_double_weights_are_left_alone() -> None:
    result = _quantize(_matmul(_normal(32, 32)))
    assert "fewer than 4096" in result.refusals[0].reason
    result = _quantize(_matmul(_normal(64, 64)), exclude=("*w",))
    assert "excluded" in result.refusals[0].reason
    model = parse_model(
        "g (double[N,64] x) => (double[N,64] y) { y = MatMul(x, w) }",
        {"w": _normal(64, 64, dtype=np.float64)},
    )
    assert "DOUBLE" in _quantize(model).refusals[0].reason


def test_a_weight_that_is_a_graph_output_stays() -> None:
    model = _matmul(_normal(64, 64))
    model.graph.outputs.append(model.graph.initializers["w"])
    result = QuantizeWeights()(model)
    assert not result.modified
    assert "graph output" in result.refusals[0].reason


def test_nan_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    weight = _normal(64, 64)
    weight[3, 4] = np.nan
    model = _matmul(weight)
    QuantizeWeights()(model)
    with pytest.raises(OnnxOptError, match="weight 'w' holds NaN or infinity"):
        save_model(model, tmp_path / "m.onnx", external_data=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "4 or 8 bits, not 3"),
        ({"block_size": 48}, "power of two from 16 on"),
        ({"method": "best"}, "methods are rtn"),
    ],
)
def test_options_that_do_not_exist_are_one_clear_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        QuantizeWeights(**options)(_matmul(_normal(64, 64)))


def test_standard_operators_need_opset_21() -> None:
    with pytest.raises(InvalidInputError, match="needs opset 21, the model has 18"):
        QuantizeWeights(format="standard")(_matmul(_normal(64, 64), opset=18))


def test_saved_and_loaded_it_computes_the_same(tmp_path: Path) -> None:
    for format_ in ("operators", "standard"):
        model, feeds = _three()
        _quantize(model, format=format_)
        wanted = run(model, feeds)
        save_model(model, tmp_path / "m.onnx", external_data=True)
        for found, expected in zip(
            run(load_model(tmp_path / "m.onnx"), feeds), wanted, strict=True
        ):
            np.testing.assert_array_equal(found, expected)

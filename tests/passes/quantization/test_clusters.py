"""ClusterWeights: palettes by k-means, as indices or as values."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import assert_refuses, assert_rewrites, parse_model, run

from onnxopt.core.errors import InvalidInputError, OnnxOptError
from onnxopt.graph.loading import load_model
from onnxopt.graph.palettes import find_palette, nearest
from onnxopt.graph.saving import save_model
from onnxopt.passes.quantization import ClusterWeights


def _weight(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _matmul(weight: np.ndarray, opset: int = 18) -> ir.Model:
    kind = {"float32": "float", "float16": "float16", "float64": "double"}[str(weight.dtype)]
    text = f"g ({kind}[N,64] x) => ({kind}[N,96] y) {{ y = MatMul(x, w) }}"
    return parse_model(text, {"w": weight}, opset=opset)


@pytest.mark.parametrize("opset", [11, 18])
def test_a_weight_becomes_a_palette_and_bytes(opset: int) -> None:
    assert_rewrites(
        ClusterWeights(),
        _matmul(_weight(64, 96), opset),
        expect=["Cast", "Gather", "MatMul"],
        rewrites={"palette": 1},
        rtol=0,
        atol=0.5,  # 64 products with errors of 0.01
    )


def test_few_different_values_are_kept_exactly() -> None:
    weight = np.random.default_rng(0).choice([-1.5, 0, 0.25, 7], (64, 96)).astype(np.float32)
    assert_rewrites(
        ClusterWeights(count=16), _matmul(weight), expect=None, rewrites=1, rtol=1e-6, atol=1e-5
    )


def test_values_stay_in_place_and_compress(tmp_path: Path) -> None:
    model = _matmul(_weight(64, 96))
    save_model(model, tmp_path / "a.onnx")
    result = ClusterWeights(count=16, form="values")(model)
    assert result.modified
    assert not ClusterWeights(count=16, form="values")(model).modified
    save_model(model, tmp_path / "b.onnx")
    weight = load_model(tmp_path / "b.onnx").graph.initializers["w"].const_value
    assert weight is not None
    assert len(np.unique(weight.numpy())) == 16
    before, after = (
        len(zlib.compress((tmp_path / name).read_bytes(), 9)) for name in ("a.onnx", "b.onnx")
    )
    assert after < 0.25 * before


def test_branches_read_what_the_main_graph_computes(tmp_path: Path) -> None:
    model = parse_model(
        "g (bool c, float[N,64] x) => (float[N,96] y) {"
        " y = If(c) <then_branch = a () => (float[N,96] u) { u = MatMul(x, w) },"
        "  else_branch = b () => (float[N,96] v) { v = MatMul(x, k) }> }",
        {"w": _weight(64, 96), "k": _weight(64, 96)},
    )
    original = model.clone()
    assert ClusterWeights()(model).rewrites["palette"] == 2
    save_model(model, tmp_path / "m.onnx")
    feeds = {"c": np.array(False), "x": _weight(3, 64)}
    wanted, found = run(original, feeds)[0], run(load_model(tmp_path / "m.onnx"), feeds)[0]
    np.testing.assert_allclose(found, wanted, atol=0.5)


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        ("(float[N,64] x, float[64,96] w) => (float[N,96] y) { y = MatMul(x, w) }",
         {"w": _weight(64, 96)}, "graph input"),
        ("(float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }",
         {"w": _weight(8, 8)}, "fewer than 4096"),
        ("(double[N,64] x) => (double[N,96] y) { y = MatMul(x, w) }",
         {"w": _weight(64, 96, dtype=np.float64)}, "DOUBLE"),
    ],
)  # fmt: skip
def test_what_is_left_alone(text: str, weights: dict[str, np.ndarray], reason: str) -> None:
    assert_refuses(ClusterWeights(), parse_model(f"g {text}", weights), reason)


def test_excluded_weights_are_named() -> None:
    assert_refuses(ClusterWeights(exclude=("w*",)), _matmul(_weight(64, 96)), "excluded")


def test_nan_ends_the_run_with_the_name_and_writes_nothing(tmp_path: Path) -> None:
    weight = _weight(64, 96)
    weight[3, 5] = np.nan
    model = _matmul(weight)
    ClusterWeights()(model)
    with pytest.raises(OnnxOptError, match="'w' holds NaN"):
        save_model(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_other_counts_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="16 or 256 values, not 17"):
        ClusterWeights(count=17)


@pytest.mark.parametrize("count", [16, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_palettes_are_better_than_even_steps(count: int, dtype: Any) -> None:
    weight = _weight(256, 64, dtype=dtype)
    tensor = ir.tensor(weight, name="w")
    palette = find_palette(tensor, count)
    assert len(palette) <= count
    clustered = palette[nearest(palette, tensor)]
    low, high = float(weight.min()), float(weight.max())
    step = (high - low) / (count - 1)
    even = low + np.round((weight - low) / step) * step
    wide = weight.astype(np.float32)
    assert np.square(clustered - wide).mean() < 0.8 * np.square(even - wide).mean()


def test_zeros_stay_zero() -> None:
    weight = _weight(64, 96)
    weight[np.abs(weight) < 0.7] = 0
    tensor = ir.tensor(weight, name="w")
    palette = find_palette(tensor, 16)
    assert (palette[nearest(palette, tensor)][weight == 0] == 0).all()


def test_masks_are_left_alone() -> None:
    mask = np.triu(np.full((64, 64), -np.inf, np.float32), 1)
    model = parse_model("g (float[N,64,64] x) => (float[N,64,64] y) { y = Add(x, m) }", {"m": mask})
    assert_refuses(ClusterWeights(), model, "it holds infinities")

"""`recover`: training against the original, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

import onnxopt
from onnxopt.core.errors import InvalidInputError

pytest.importorskip("torch")


def _mlp(hidden: int, seed: int) -> ir.Model:
    rng = np.random.default_rng(seed)
    return parse_model(
        "g (float[N, 8] x) => (float[N, 3] y) { h = Gemm(x, a, b) r = Relu(h) y = MatMul(r, c) }",
        {
            "a": rng.standard_normal((8, hidden)).astype(np.float32),
            "b": rng.standard_normal(hidden).astype(np.float32),
            "c": rng.standard_normal((hidden, 3)).astype(np.float32),
        },
    )


def _qdq() -> ir.Model:
    """`_mlp(6, 0)` with an int8 weight whose scale is bad."""
    original = _mlp(6, 0)
    weight = original.graph.initializers["a"].const_value.numpy()
    quantized = np.clip(np.rint(weight / 0.2) + 3, -128, 127).astype(np.int8)
    return parse_model(
        "g (float[N, 8] x) => (float[N, 3] y) {"
        " w = DequantizeLinear(q, s, z) h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, c) }",
        {
            "q": quantized,
            "s": np.float32(0.2),
            "z": np.int8(0),
            **{n: original.graph.initializers[n].const_value.numpy() for n in ("b", "c")},
        },
    )


def _data(count: int = 24) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal((16, 8)).astype(np.float32)} for _ in range(count)]


def _error(model: ir.Model, original: ir.Model) -> float:
    feeds = {"x": np.random.default_rng(9).standard_normal((64, 8)).astype(np.float32)}
    one, other = run(model, feeds)[0], run(original, feeds)[0]
    return float(np.square(one - other).mean() / other.var())


def test_training_brings_a_model_close_to_the_original_and_leaves_it_alone(tmp_path: Path) -> None:
    original, student = _mlp(16, 0), _mlp(16, 1)
    before = _error(student, original)
    path = tmp_path / "r.onnx"
    result = onnxopt.recover(
        student, original, path, calibration=_data(), epochs=20, learning_rate=3e-3
    )
    assert _error(student, original) == before
    assert _error(onnxopt.load(path), original) < 0.2 * before
    report = result.report
    assert report.after < report.before
    assert report.parameters == 8 * 16 + 16 + 16 * 3
    assert "parameters trained" in report.to_text()
    assert "mean square error of the outputs, relative to their variance," in report.to_text()


def test_integer_weights_train_as_integers() -> None:
    original, student = _mlp(6, 0), _qdq()
    before = _error(student, original)
    result = onnxopt.recover(student, original, calibration=_data(), epochs=20, learning_rate=3e-3)
    weight = result.model.graph.initializers["q"].const_value
    assert weight.dtype == ir.DataType.INT8
    assert not np.array_equal(weight.numpy(), student.graph.initializers["q"].const_value.numpy())
    assert _error(result.model, original) < 0.5 * before


def test_the_model_is_kept_when_it_is_the_original() -> None:
    original = _mlp(8, 0)
    result = onnxopt.recover(original, original, calibration=_data(8), epochs=1)
    assert result.report.chosen == 0
    assert _error(result.model, original) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": None}, "training needs data"),
        ({"calibration": _data(4), "epochs": 0}, "more than 0"),
        ({"calibration": [{"x": np.ones((2, 5), np.float32)}]}, "x"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        onnxopt.recover(_mlp(4, 0), _mlp(4, 0), **options)


def test_other_outputs_are_refused() -> None:
    other = parse_model("g (float[N, 8] x) => (float[N, 8] z) { z = Relu(x) }", {})
    with pytest.raises(InvalidInputError, match="lacks output 'z'"):
        onnxopt.recover(_mlp(4, 0), other, calibration=_data(4))


def test_report_says_when_no_samples_were_kept_apart() -> None:
    report = onnxopt.recover(_mlp(16, 1), _mlp(16, 0), calibration=_data(1), epochs=1).report
    assert not report.is_apart
    assert "the same, too few to keep some apart" in report.to_text()
    assert "others" not in report.to_text()


def test_steps_without_finite_gradients_are_left_out_and_counted() -> None:
    text = "g (float[N, 8] x) => (float[N, 1] y) { h = MatMul(x, a) y = ReduceL2(h, last) }"
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    original, student = (
        parse_model(text, {"a": weight + np.float32(shift), "last": np.array([-1])})
        for shift in (0, 0.1)
    )
    # The length of a row of zeros has no gradient.
    data = [{"x": one["x"] * (np.arange(16) > 0)[:, None].astype(np.float32)} for one in _data()]
    result = onnxopt.recover(student, original, calibration=data, epochs=1)
    assert result.report.left_out == 18  # of 36 sets of 8 rows
    assert "steps left out: gradients were not finite" in result.report.to_text()
    assert result.report.chosen == 1

"""Diagnosis of models in fewer bits: budgets, what is usual, and what is a fault there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from helpers.narrowing import to_float16, to_qdq
from helpers.rewriting import parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.runtime.diagnosis.pairing import pair_values
from onnxopt.runtime.diagnosis.probing import Probe
from onnxopt.runtime.diagnosis.search import diagnose
from onnxopt.runtime.parity.conversion import find_conversion, parse_budget

CNN = Path(__file__).resolve().parents[2] / "models" / "digits_cnn.onnx"
WIDTH = 32


def _chain(gain: float = 1.0) -> ir.Model:
    """MatMul, Relu, twice; the second result is `gain` times as large."""
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y) {{
        h = MatMul(x, w0)
        r = Relu(h)
        large = MatMul(r, w1)
        bent = Relu(large)
        y = MatMul(bent, w2)
    }}"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, scale in (("w0", 1.0), ("w1", gain), ("w2", 1 / gain)):
        weight = scale * rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype("f"), name))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(proto)


def _data() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((64, WIDTH)).astype(np.float32)}


def _ranges(model: ir.Model) -> dict[str, float]:
    """What values reach."""
    names = ("h", "r", "large", "bent")
    return {n: float(np.abs(a).max()) for n, a in Probe(model).fetch(names, _data()).items()}


def test_float16_is_within_its_budget_and_ranked_by_own_error() -> None:
    original = _chain()
    found = diagnose(original, to_float16(original))
    assert (found.status, found.exit_code, found.conversion) == ("within", 0, "float16")
    own = [finding.point.own.rms for finding in found.findings if finding.point.own]
    assert own == sorted(own, reverse=True)
    assert own
    assert not any(finding.at_fault for finding in found.findings)
    assert "set your own with --budget" in found.to_text()


def test_overflow_is_named_where_it_begins() -> None:
    original = _chain(gain=1e5)
    found = diagnose(original, to_float16(original))
    assert found.exit_code == 3
    worst = found.findings[0]
    assert worst.point.node == "MatMul 'node_large'"
    assert any("overflow" in cause for cause in worst.causes), found.to_text()


def test_mask_that_becomes_infinite_is_no_overflow() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[N, {WIDTH}] x, bool[N, {WIDTH}] keep) => (float[N, {WIDTH}] y) {{
        h = MatMul(x, w)
        m = Where(keep, zero, lowest)
        a = Add(h, m)
        y = Softmax<axis = 1>(a)
    }}"""
    proto = onnx.parser.parse_model(text)
    lowest = np.finfo(np.float32).min
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    for name, array in (("w", weight), ("zero", np.float32(0)), ("lowest", lowest)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, "f"), name))
    original = ir.from_proto(proto)
    data = {"x": np.ones((2, WIDTH), np.float32), "keep": np.arange(2 * WIDTH).reshape(2, -1) > 9}
    found = diagnose(original, to_float16(original), inputs=data)
    assert not any(finding.at_fault for finding in found.findings), found.to_text()


def test_rounding_to_eight_bits_is_no_fault_and_its_steps_are_named() -> None:
    original = _chain()
    found = diagnose(original, to_qdq(original, _ranges(original)), inputs=_data())
    assert (found.status, found.conversion) == ("within", "8 bits"), found.to_text()
    assert not any(finding.at_fault for finding in found.findings), found.to_text()
    assert re.search(r"QuantizeLinear '\w+_Q': steps of [\d.]+ \(uint8\) lose", found.to_text())


def test_clipping_is_named_at_the_node_that_clips() -> None:
    original = _chain()
    ranges = _ranges(original)
    ranges["large"] *= 0.2
    found = diagnose(original, to_qdq(original, ranges), inputs=_data())
    assert found.exit_code == 3
    worst = found.findings[0]
    assert worst.point.node == "MatMul 'node_large'"
    assert "QuantizeLinear 'large_Q' clips" in worst.causes[0]
    assert [finding.at_fault for finding in found.findings] == [True]


def test_range_that_is_too_large_is_named() -> None:
    original = _chain()
    ranges = _ranges(original)
    ranges["large"] *= 50
    found = diagnose(original, to_qdq(original, ranges), inputs=_data())
    worst = found.findings[0]
    assert worst.point.node == "MatMul 'node_large'"
    assert "of its range" in worst.causes[0]


def test_wrong_weight_is_named_in_a_quantized_model() -> None:
    original = _chain()
    quantized = to_qdq(original, _ranges(original))
    step = quantized.graph.initializers["w1_step"]
    assert step.const_value is not None
    step.const_value = ir.tensor(step.const_value.numpy() * np.float32(1.3), name="w1_step")
    worst = diagnose(original, quantized, inputs=_data()).findings[0]
    assert worst.point.node == "MatMul 'node_large'"
    assert any("'w1_quantized' is scaled by 1.3" in cause for cause in worst.causes), worst.causes


@pytest.mark.slow
def test_converter_of_the_runtime_is_understood(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, scale: float) -> None:
            self._left = iter([{"image": scale * image} for image in _images()])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._left, None)

    fine, cut = tmp_path / "fine.onnx", tmp_path / "cut.onnx"
    quantize_static(CNN, fine, Images(1.0), per_channel=True)
    quantize_static(CNN, cut, Images(0.2), per_channel=True)
    good, bad = (diagnose(CNN, path, inputs={"image": _images()[0]}) for path in (fine, cut))
    assert good.status == "within", good.to_text()
    assert bad.exit_code == 3
    assert all("clips" in " ".join(finding.causes) for finding in bad.findings[:3]), bad.to_text()


def _images() -> list[Any]:
    rng = np.random.default_rng(0)
    shape = [dim if isinstance(dim, int) else 2 for dim in load_model(CNN).graph.inputs[0].shape]
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize(
    ("text", "error"),
    [("0.02", 0.02), ("2%", 0.02), ("40dB", 0.01), (" 40 DB", 0.01), ("0", None), ("good", None)],
)
def test_budget_is_read_from_text(text: str, error: float | None) -> None:
    if error is None:
        with pytest.raises(InvalidInputError, match="decibels"):
            parse_budget(text)
    else:
        assert parse_budget(text) == pytest.approx(error)


def test_budget_that_is_given_decides() -> None:
    original = _chain()
    assert diagnose(original, to_float16(original), budget="90dB").exit_code == 3
    other = original.clone()
    weight = other.graph.initializers["w1"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name="w1")
    found = diagnose(original, other, budget="2%")
    assert found.exit_code == 0
    assert found.findings[0].at_fault
    assert find_conversion(original, other) is None


def test_value_behind_a_range_stands_for_the_relu_that_it_replaces():
    plain = parse_model(
        """
        g (float[1, 4] x) => (float[1, 2] y) {
            a = MatMul(x, w)
            b = Relu(a)
            y = MatMul(b, v)
        }
        """,
        {"w": np.ones((4, 3), np.float32), "v": np.ones((3, 2), np.float32)},
    )
    quantized = parse_model(
        """
        g (float[1, 4] x) => (float[1, 2] y) {
            a = MatMul(x, w)
            q = QuantizeLinear(a, s, z)
            d = DequantizeLinear(q, s, z)
            y = MatMul(d, v)
        }
        """,
        {
            "w": np.ones((4, 3), np.float32),
            "v": np.ones((3, 2), np.float32),
            "s": np.array(0.1, np.float32),
            "z": np.array(0, np.uint8),
        },
    )
    assert pair_values(plain, quantized) == {"a": "a", "d": "b", "y": "y"}

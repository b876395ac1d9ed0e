"""`quantize_weights`: algorithms that look at data, bits by sensitivity, the report, bad input."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model, run

from onnxopt.calibration.data import open_data
from onnxopt.calibration.second_moments import second_moments
from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.graph.saving import save_model
from onnxopt.weight_only import WeightResult, quantize_weights

_WIDTH = 64


def _network() -> ir.Model:
    """A gated block as decoders have it: scaled input, gate and up, down, head."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal(shape).astype(np.float32) * 0.2
        for name, shape in {
            "gate": (_WIDTH, 96), "up": (_WIDTH, 96), "down": (96, _WIDTH), "head": (_WIDTH, 80)
        }.items()
    }  # fmt: skip
    weights["norm"] = np.exp(rng.standard_normal(_WIDTH)).astype(np.float32)
    return parse_model(
        f"g (float[N,{_WIDTH}] x) => (float[N,80] y) {{"
        " n = Mul(x, norm)  a = MatMul(n, gate)  s = Sigmoid(a)  b = MatMul(n, up)"
        " p = Mul(s, b)  d = MatMul(p, down)  r = Add(d, x)  y = MatMul(r, head) }",
        weights,
    )


def _data(count: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((8, _WIDTH)) * np.exp(rng.standard_normal(_WIDTH))
    return [{"x": (rng.standard_normal((40, 8)) @ mix).astype(np.float32)} for _ in range(count)]


def _quantized(model: ir.Model, **options: Any) -> WeightResult:
    return quantize_weights(model, smallest=16, accuracy_level=0, **options)


def _error(model: ir.Model, result: WeightResult) -> float:
    feeds = _data(7)[-1]
    wanted, found = run(model, feeds)[0], run(result.model, feeds)[0]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_gptq_and_awq_lose_less_than_rounding_at_the_same_size() -> None:
    model = _network()
    plain = _quantized(model)
    for algorithm, share in (("gptq", 0.7), ("awq", 0.95)):
        result = _quantized(model, algorithm=algorithm, calibration=_data())
        assert result.report.bytes_after == pytest.approx(plain.report.bytes_after, rel=0.02)
        assert _error(model, result) < share * _error(model, plain)
        assert {one.algorithm for one in result.report.weights} == {algorithm}


@pytest.mark.parametrize("format_", ["operators", "standard"])
def test_scales_that_awq_moves_cancel(format_: Any) -> None:
    model = _network()
    result = _quantized(model, algorithm="awq", calibration=_data(), bits=8, format=format_)
    assert _error(model, result) < 0.02
    norm = model.graph.initializers["norm"].const_value
    assert norm is not None
    assert "norm" not in result.model.graph.initializers or any(
        name.startswith("norm_scaled") for name in result.model.graph.initializers
    )
    np.testing.assert_array_equal(norm.numpy(), _network().graph.initializers["norm"].const_value)


def test_awq_scales_nothing_that_another_node_reads() -> None:
    model = parse_model(
        f"g (float[N,{_WIDTH}] x) => (float[N,80] y, float[N,{_WIDTH}] z)"
        " { n = Mul(x, norm)  y = MatMul(n, w)  z = Relu(n) }",
        {"norm": np.ones(_WIDTH, np.float32), "w": np.ones((_WIDTH, 80), np.float32)},
    )
    result = _quantized(model, algorithm="awq", calibration=_data())
    assert not any("scaled" in name for name in result.model.graph.initializers)


def test_moments_are_those_of_the_values_whatever_the_memory() -> None:
    model = _network()
    data = open_data(_data(), model)
    rows = np.concatenate([one["x"] for one in _data()]).astype(np.float64)
    for memory in (1 << 30, 1):  # at once, and value by value
        found = dict(second_moments(model, {"x": _WIDTH, "n": _WIDTH}, data, max_memory=memory))
        assert found["x"].rows == len(rows)
        wanted = rows.T @ rows / len(rows)
        np.testing.assert_allclose(found["x"].mean, wanted, rtol=1e-4, atol=1e-4)
        norm = model.graph.initializers["norm"].const_value
        assert norm is not None
        scale = norm.numpy().astype(np.float64)
        np.testing.assert_allclose(
            found["n"].mean, wanted * np.outer(scale, scale), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("average", [3.0, 9.0, float("nan")])
def test_an_average_of_bits_that_no_choice_gives_is_refused(average: float) -> None:
    with pytest.raises(InvalidInputError, match="4 or 8 bits, an average of"):
        quantize_weights("unread.onnx", bits="auto", average_bits=average, calibration=[])


def test_bits_auto_spends_8_bits_where_rounding_costs_most_within_the_budget() -> None:
    model = _network()
    result = _quantized(model, bits="auto", average_bits=5.5, calibration=_data())
    bits = {one.name: one.bits for one in result.report.weights}
    assert set(bits.values()) == {4, 8}
    sizes = {one.name: one.shape[0] * one.shape[1] for one in result.report.weights}
    spent = sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())
    assert 4 < spent <= 5.5
    assert _error(model, result) < _error(model, _quantized(model))


def test_overrides_and_exclusions_are_kept() -> None:
    result = _quantized(_network(), overrides={"he*": 8}, exclude=["down"])
    assert {one.name: one.bits for one in result.report.weights} == {"gate": 4, "up": 4, "head": 8}
    assert [(r.node, r.reason) for r in result.report.refusals] == [("down", "it is excluded")]


def test_patterns_that_name_nothing_are_noted() -> None:
    notes = _quantized(
        _network(), overrides={"nose": 8, "he*": 8}, exclude=["ear", "up"]
    ).report.notes
    assert [n.rsplit(" ", 1)[1] for n in notes if n.startswith("no weight")] == ["'ear'", "'nose'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"format": "qdq"}, "the formats are operators, standard"), ({"accuracy_level": 5}, "0 to 4")],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        quantize_weights(_network(), **options)


def test_the_report_says_what_was_saved(tmp_path: Path) -> None:
    save_model(_network(), tmp_path / "in.onnx")
    result = quantize_weights(tmp_path / "in.onnx", tmp_path / "out.onnx", smallest=16)
    report = result.report
    assert report.bytes_after < 0.25 * report.bytes_before
    assert all(one.relative_error and 0 < one.relative_error < 0.2 for one in report.weights)
    assert "head (rtn)" in report.to_text(verbose=True)
    assert report.to_dict()["weights"][0]["bits"] == 4
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "in.onnx").stat().st_size


def test_weights_inside_control_flow_are_rounded_by_their_own_values() -> None:
    model = parse_model(
        f"g (bool c, float[N,{_WIDTH}] x) => (float[N,80] y) {{"
        " y = If(c) <then_branch = a () => (float[N,80] u) { u = MatMul(x, w) },"
        "  else_branch = b () => (float[N,80] v) { v = MatMul(x, k) }> }",
        {"w": np.ones((_WIDTH, 80), np.float32), "k": np.ones((_WIDTH, 80), np.float32)},
    )
    data = [{"c": np.array(True), **one} for one in _data(4)]
    result = _quantized(model, algorithm="gptq", calibration=data)
    assert {one.bits for one in result.report.weights} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "gptq"}, "gptq needs calibration data"),
        ({"algorithm": "awq"}, "awq needs calibration data"),
        ({"bits": "auto"}, "bits auto needs calibration data"),
        ({"algorithm": "best"}, "the algorithms are rtn, mse"),
        ({"bits": 5}, "4 or 8 bits, not 5"),
        (
            {"algorithm": "gptq", "calibration": [{"x": np.full((2, _WIDTH), np.nan, np.float32)}]},
            "NaN",
        ),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        quantize_weights(_network(), smallest=16, **options)
    assert "\n" not in str(caught.value)


def test_progress_is_told_by_weight(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    quantize_weights(
        _network(), tmp_path / "out.onnx", smallest=16, progress=lambda *one: told.append(one)
    )
    assert sorted(name for name, _, _ in told) == ["down", "gate", "head", "up"]
    assert [done for _, done, _ in told] == [1, 2, 3, 4]
    assert {count for _, _, count in told} == {4}


def test_a_full_temporary_folder_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(SaveError, match=r"intermediate results in .*No space left"):
        quantize_weights(
            _network(), tmp_path / "m.onnx", algorithm="gptq", calibration=_data(), smallest=1
        )
    assert not list(tmp_path.iterdir())


def test_a_table_that_is_the_head_as_well_is_said_to_be_stored_twice() -> None:
    model = parse_model(
        "g (int64[N] i) => (float[N,80] y) { e = Gather(t, i)  y = Gemm<transB=1>(e, t) }",
        {"t": np.random.default_rng(0).standard_normal((80, _WIDTH)).astype(np.float32)},
    )
    report = quantize_weights(model, smallest=1).report
    assert len(report.weights) == 2
    assert any("'t' is read in 2 ways" in note for note in report.notes)


@pytest.mark.parametrize("options", [{"algorithm": "gptq"}, {"algorithm": "awq"}, {"bits": "auto"}])
def test_where_nothing_can_be_observed_weights_are_rounded_and_the_report_says_so(
    options: dict[str, Any],
) -> None:
    table = np.random.default_rng(0).standard_normal((64, _WIDTH)).astype(np.float32)
    model = parse_model(
        f"g (int64[N] x) => (float[N,{_WIDTH}] y) {{ y = Gather(table, x) }}", {"table": table}
    )
    ids = {"x": np.arange(64)}
    result = _quantized(model, calibration=[ids], **options)
    assert any("nothing to calibrate" in note for note in result.report.notes)
    (found,) = run(result.model, ids)
    assert 0 < np.abs(found - table).max() < 0.5
    assert [node.op_type for node in result.model.graph] == ["GatherBlockQuantized"]


def test_products_in_branches_alone_are_rounded() -> None:
    weights = {name: np.eye(_WIDTH, dtype=np.float32) for name in ("u", "v")}
    text = (
        f"g (float[N,{_WIDTH}] x, bool c) => (float[N,{_WIDTH}] y) {{ y = If(c) <"
        f" then_branch = t () => (float[N,{_WIDTH}] p) {{ a = Relu(x)  p = MatMul(a, u) }},"
        f" else_branch = e () => (float[N,{_WIDTH}] q) {{ b = Neg(x)  q = MatMul(b, v) }}> }}"
    )
    feeds = {**_data(1)[0], "c": np.array(True)}
    result = _quantized(parse_model(text, weights), algorithm="gptq", calibration=[feeds])
    assert {one.algorithm for one in result.report.weights} == {"mse"}
    assert any("nothing to calibrate" in note for note in result.report.notes)

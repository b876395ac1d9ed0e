"""`convert`: measured overflow, the search for what needs float32, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model, run

from onnxopt.cli.group import cli
from onnxopt.converting import convert
from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model
from onnxopt.runtime.half_search import find_float32, relative_error

_RNG = np.random.default_rng(0)


def _overflowing() -> ir.Model:
    """The square of the sum is beyond float16, its root is not."""
    return parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = Mul(x, k)  b = Mul(a, a)  c = Sqrt(b)"
        " d = Relu(x)  y = Div(c, k) }",
        {"k": np.array(1000, np.float32)},
    )


def _data() -> dict[str, Any]:
    return {"x": _RNG.standard_normal((4, 8)).astype(np.float32)}


def test_values_that_overflow_are_measured_and_stay_in_float32() -> None:
    result = convert(_overflowing(), calibration=_data())
    assert set(result.report.overflowing) == {"b"}
    assert result.report.error is not None
    assert result.report.error < 2e-3
    assert any(refusal.node == "b" for refusal in result.report.kept)
    assert "reaches" in result.report.to_text()


def _cancelling() -> ir.Model:
    """A difference of near numbers: in range everywhere, and wrong by far."""
    return parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = Add(x, k)  b = Relu(a)  c = Sub(b, k)"
        " d = Sigmoid(c)  e = Mul(d, d)  y = Sub(c, e) }",
        {"k": np.array(5000, np.float32)},
    )


def test_what_ranges_do_not_show_is_searched() -> None:
    result = convert(_cancelling(), calibration=_data())
    assert result.report.error is not None
    assert result.report.error <= 0.01
    assert {"a", "b", "c"} <= set(result.report.searched)
    assert not {"d", "e"} <= set(result.report.searched)


def test_outputs_below_what_float16_holds_are_not_judged_by_noise() -> None:
    model = parse_model(
        "g (float[N,8] x) => (float[N,8] y) { a = Sub(x, k)  y = Sigmoid(a) }",
        {"k": np.array(20, np.float32)},
    )
    (before,) = run(model, _data())
    assert before.max() < 2**-20
    result = convert(model, calibration=_data())
    assert result.report.error is not None
    assert result.report.error <= 0.01
    assert not result.report.searched


def test_differences_below_the_smallest_count_as_none() -> None:
    wanted = [{"y": np.array([1e-8, 2.0])}]
    assert relative_error([{"y": np.array([1e-8])}], [{"y": np.array([9e-8])}]) == 8
    assert relative_error(wanted, [{"y": np.array([9e-9, 2.0])}], smallest=2**-24) == 0
    assert relative_error(wanted, [{"y": np.array([1e-8, 1.0])}], smallest=2**-24) == 0.5
    assert relative_error(wanted, [{"y": np.array([np.nan, 2.0])}], smallest=2**-24) == math.inf


def test_where_float32_everywhere_does_not_do_nothing_is_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[float] = []

    def failing(*args: Any, **options: Any) -> float:
        calls.append(0.9)
        return 0.9

    monkeypatch.setattr("onnxopt.runtime.half_search.error_of", failing)
    with pytest.raises(ParityError, match=r"off by 0\.9, .* even with every node in float32"):
        convert(_cancelling(), calibration=_data())
    assert len(calls) == 2  # with all nodes in half precision, and with none


def test_a_tolerance_that_cannot_be_met_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="more than the tolerance"):
        convert(
            _overflowing(), tmp_path / "m.onnx", calibration=_data(), io_types=True, tolerance=1e-7
        )
    assert not list(tmp_path.iterdir())


def test_bfloat16_raises_the_opset_and_says_what_the_cpu_cannot_run() -> None:
    result = convert(_overflowing(), to="bf16", calibration=_data())
    assert result.model.opset_imports[""] >= 22
    assert result.report.rewrites["node"] >= 4


def test_the_search_finds_a_single_culprit() -> None:
    nodes = [f"n{index}" for index in range(40)]
    asked = []

    def passes(kept: Any) -> bool:
        asked.append(kept)
        return "n17" in kept

    assert find_float32(nodes, passes, tries=40) == (["n17"], True)
    assert len(asked) <= 12


def test_the_search_finds_culprits_far_apart() -> None:
    nodes = [f"n{index}" for index in range(64)]
    found, complete = find_float32(nodes, lambda kept: {"n3", "n50"} <= set(kept), tries=60)
    assert set(found) == {"n3", "n50"}
    assert complete


def test_the_search_ends_with_its_budget_and_what_passed_stands() -> None:
    nodes = [f"n{index}" for index in range(40)]
    ticks = iter(range(100))
    found, complete = find_float32(
        nodes, lambda kept: "n17" in kept, seconds=3.5, clock=lambda: float(next(ticks))
    )
    assert "n17" in found
    assert len(found) < 40
    assert not complete


def test_a_search_without_time_keeps_everything_in_float32_and_says_so() -> None:
    report = convert(_cancelling(), calibration=_data(), budget=0).report
    assert any("the search ended" in note for note in report.notes)
    assert set(report.searched) == {"a", "b", "c", "d", "e", "y"}
    assert "and 1 more" in report.to_text()
    assert report.error == 0


def test_unknown_types_are_one_clear_line() -> None:
    with pytest.raises(InvalidInputError, match="fp16 or bf16"):
        convert(_overflowing(), to="fp8")  # type: ignore[arg-type]


def test_the_command_converts_and_reports(tmp_path: Path) -> None:
    save_model(_overflowing(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **_data())
    done = CliRunner().invoke(
        cli,
        [
            "convert",
            f"{tmp_path}/m.onnx",
            "--to",
            "fp16",
            "--json",
            "--inputs",
            f"{tmp_path}/x.npz",
        ],
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["output"] == str(tmp_path / "m.fp16.onnx")
    assert report["overflowing"]
    feeds = _data()
    converted = run(load_model(tmp_path / "m.fp16.onnx"), feeds)[0]
    np.testing.assert_allclose(converted, run(_overflowing(), feeds)[0], atol=0.01)

"""`mask_weights` and `prune --mask`: measures, reports, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.rewriting import op_types, parse_model, random_feeds, run

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.graph.saving import save_model
from onnxopt.runtime.measuring.ratio import Ratio


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = Ratio(1.0, 0.99, 1.01, 10)
    monkeypatch.setattr("onnxopt.pruning.masking.measure_speed", lambda *a, **o: ratio)


def _model() -> ir.Model:
    rng = np.random.default_rng(0)
    return parse_model(
        "g (float[N, 4, 6, 6] x) => (float[N, 8] y) {"
        " c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) f = Flatten(r) h = MatMul(f, v)"
        " a = Tanh(h) y = Gemm(a, u, b) }",
        {
            "w": rng.standard_normal((32, 4, 3, 3)).astype(np.float32),
            "v": rng.standard_normal((32 * 36, 32)).astype(np.float32) / 30,
            "u": rng.standard_normal((32, 8)).astype(np.float32),
            "b": rng.standard_normal(8).astype(np.float32),
        },
    )


def _data(model: ir.Model, count: int = 20) -> list[dict[str, Any]]:
    """Inputs whose pixels go together, so that some can speak for others."""
    found = []
    for seed in range(count):
        (x,) = random_feeds(model, {"N": 40}, seed=seed).values()
        found.append({"x": (x + 2 * x.mean(axis=1, keepdims=True)).astype(np.float32)})
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = _model()
    save_model(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in _data(model, 8)]))
    return tmp_path


def test_data_makes_the_error_smaller_and_repair_smaller_still() -> None:
    model = _model()
    data = _data(model)
    errors = {}
    for importance, repair in (("l2", True), ("hessian", False), ("hessian", True)):
        result = onnxopt.mask_weights(
            model, calibration=data, sparsity=0.5, importance=importance, repair=repair
        )
        report = result.report
        assert [one.measure for one in report.weights] == [importance] * 2
        assert report.zeros == pytest.approx(0.5, abs=0.01)
        errors[importance, repair] = [one.error for one in report.weights]
    for plain, solved in zip(errors["l2", True], errors["hessian", True], strict=True):
        assert solved < 0.8 * plain
    for chosen, solved in zip(errors["hessian", False], errors["hessian", True], strict=True):
        assert solved < chosen


@pytest.mark.parametrize("importance", ["l1", "random", "activation", "hessian"])
def test_two_of_four_channels_are_zero(importance: str) -> None:
    model = _model()
    result = onnxopt.mask_weights(
        model, calibration=_data(model, 4), pattern="2:4", importance=importance
    )
    weights = {n: v.const_value.numpy() for n, v in result.model.graph.initializers.items()}
    quads = np.moveaxis(next(a for a in weights.values() if a.ndim == 4), 1, -1).reshape(-1, 4)
    assert ((quads == 0).sum(axis=1) == 2).all()
    assert model.graph.initializers["w"].const_value.numpy().all()
    assert [one.node for one in result.report.refusals]


def test_magnitudes_choose_without_data() -> None:
    report = onnxopt.mask_weights(_model(), sparsity=0.5).report
    assert {one.measure for one in report.weights} == {"l2"}
    assert not any(one.observed for one in report.weights)
    text = report.to_text()
    assert "inputs not observed" in text
    assert "mean square error of product" in text


def test_command_reports_zeros_errors_and_sizes(folder: Path) -> None:
    page = folder / "page.html"
    arguments = ["prune", str(folder / "model.onnx"), "--mask", "unstructured"]
    arguments += ["--calibration", str(folder / "data.npz"), "--sparsity", "0.6"]
    result = CliRunner().invoke(cli, [*arguments, "--json", "--html", str(page)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["zeros"] == pytest.approx(0.6, abs=0.01)
    before, after = report["compressed"]
    assert after < 0.6 * before
    assert Path(report["output"]) == folder / "model.masked.onnx"
    written = onnxopt.load(folder / "model.masked.onnx")
    feeds = _data(_model(), 1)[0]
    assert not np.allclose(run(written, feeds)[0], run(_model(), feeds)[0], atol=1e-3)
    assert "ONNX Runtime computes with zeros" in page.read_text(encoding="utf-8")
    assert "left alone" in CliRunner().invoke(cli, arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mask", "2:4", "--target-flops", "0.5"], "--target-flops is about whole units"),
        (["--mask", "2:4", "--kind", "head"], "--kind is about whole units"),
        (["--mask", "2:4", "--widths"], "--widths is about whole units"),
        (["--mask", "unstructured"], "needs a sparsity"),
        (["--mask", "unstructured", "--sparsity", "0"], "over 0 and below 1"),
        (["--mask", "2:4", "--importance", "hessian"], "needs data"),
        (["--mask", "2:4", "--importance", "taylor"], "importance is one of auto, l1"),
        (["--mask", "2:4", "--exclude", "Conv", "--exclude", "MatMul"], "nothing to mask"),
        (["--mask", "2:4", "--exclude", "nowhere"], "matches no node"),
    ],
)
def test_bad_input_is_refused_in_one_line(folder: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["prune", str(folder / "model.onnx"), *arguments])
    assert isinstance(result.exception, InvalidInputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (folder / "model.masked.onnx").exists()


def test_json_has_the_report_of_a_run_that_is_given_up(folder: Path) -> None:
    arguments = ["prune", str(folder / "model.onnx"), "--mask", "2:4", "--max-error", "1e-6"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert isinstance(done.exception, ParityError)
    assert json.loads(done.stdout)["error"]["rms"] > 1e-6
    assert not (folder / "model.masked.onnx").exists()


def test_both_sides_are_timed_as_they_would_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def measure(base: ir.Model, other: ir.Model, *args: Any, **options: Any) -> Ratio:
        timed.append([op_types(one) for one in (base, other)])
        return Ratio(1.0, 0.99, 1.01, 10)

    monkeypatch.setattr("onnxopt.pruning.masking.measure_speed", measure)
    model = parse_model(
        "g (float[2, 3, 32] x) => (float[2, 3, 32] y)"
        " { m = MatMul(x, w) s = Add(x, m) n = LayerNormalization(s, one, zero) y = Add(s, n) }",
        {
            "w": np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32),
            "one": np.ones(32, np.float32),
            "zero": np.zeros(32, np.float32),
        },
    )
    onnxopt.mask_weights(model, sparsity=0.5)
    ((before, after),) = timed
    assert before == after
    assert "Sum" in after  # which passes after pruning make of Add


def test_nan_is_refused_with_the_node() -> None:
    model = _model()
    weight = model.graph.initializers["v"].const_value.numpy().copy()
    weight[3, 3] = np.nan
    model.graph.initializers["v"].const_value = ir.tensor(weight, name="v")
    with pytest.raises(InvalidInputError, match=r"'v' of node .* has NaN or infinity"):
        onnxopt.mask_weights(model, sparsity=0.5)


def test_quantized_models_are_refused_with_the_order_that_works() -> None:
    model = parse_model(
        "g (float[N, 8] x) => (float[N, 4] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        {"q": np.ones((8, 4), np.int8), "s": np.float32(0.1)},
    )
    with pytest.raises(InvalidInputError, match="then quantize it"):
        onnxopt.mask_weights(model, sparsity=0.5)

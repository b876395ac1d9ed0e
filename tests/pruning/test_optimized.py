"""`optimize --prune`: pruned, optimized and quantized in one call, with one report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model, random_feeds, run

import onnxopt
from onnxopt.calibration.data import open_data
from onnxopt.calibration.measuring import HELD_OUT
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.graph.saving import save_model
from onnxopt.pruning.goals import parse_goal
from onnxopt.runtime.measuring.ratio import Ratio

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = Ratio(1.0, 0.99, 1.01, 10)
    monkeypatch.setattr("onnxopt.pruning.running.measure_speed", lambda *a, **o: ratio)
    monkeypatch.setattr("onnxopt.pruning.running._SCALE_SECONDS", 0.0)


def _model(hidden: int = 64) -> ir.Model:
    """Half of its hidden units are near copies of the others."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, hidden // 2))
    first = np.hstack([first, first + 0.01 * rng.standard_normal(first.shape)])
    return parse_model(
        "g (float[N,8] x) => (float[N,4] y) { m = MatMul(x, w) r = Relu(m) y = MatMul(r, v) }",
        {
            "w": first.astype(np.float32),
            "v": rng.standard_normal((hidden, 4)).astype(np.float32),
        },
    )


def _data(model: ir.Model, count: int = 24) -> list[dict[str, Any]]:
    return [random_feeds(model, {"N": 5}, seed=index) for index in range(count)]


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize("quantize", [None, "fp16"])
def test_all_steps_are_reported_and_judged_against_the_original(
    tmp_path: Path, quantize: Any
) -> None:
    model, path = _model(), tmp_path / "out.onnx"

    def samples() -> Iterator[dict[str, Any]]:  # can be read once
        yield from _data(model)

    result = onnxopt.optimize(
        model, path, prune="sparsity=0.5", quantize=quantize, calibration=samples()
    )
    written = onnxopt.load(path)
    shapes = {tuple(v.const_value.shape) for v in written.graph.initializers.values()}
    assert (8, 32) in shapes
    report = result.report.to_dict()
    assert report["pruning"]["groups"][0]["kept"] == 32
    assert (report["quantization"] is None) == (quantize is None)
    assert report["output"] == str(path)
    assert report["weight_bytes"]["after"] < 0.6 * report["weight_bytes"]["before"]
    assert any("all steps together: error" in note for note in report["notes"])
    feeds = _data(model, 1)[0]
    wanted = run(model, feeds)[0]
    found = run(written, feeds)[0].astype(np.float32)
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


@pytest.mark.usefixtures("no_timing")
def test_nothing_is_written_when_the_error_is_over_the_limit(tmp_path: Path) -> None:
    model, path = _model(), tmp_path / "out.onnx"
    with pytest.raises(ParityError, match=r"more than 0\.01%"):
        onnxopt.optimize(
            model, path, prune={"sparsity": 0.75, "max_error": 1e-4}, calibration=_data(model)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_timing")
def test_json_has_the_report_of_a_run_that_is_given_up(tmp_path: Path) -> None:
    model = _model()
    save_model(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([one["x"] for one in _data(model)]))
    arguments = ["optimize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "x.npz")]
    done = CliRunner().invoke(
        cli, [*arguments, "--prune", "sparsity=0.75,max-error=1e-4", "--json"]
    )
    assert isinstance(done.exception, ParityError)
    report = json.loads(done.stdout)
    assert report["source"] == str(tmp_path / "m.onnx")
    assert report["exit_code"] == 3
    assert report["pruning"]["error"]["rms"] > 1e-4
    assert report["pruning"]["after"]["parameters"] < report["pruning"]["before"]["parameters"]


@pytest.mark.usefixtures("no_timing")
def test_the_last_step_can_be_the_one_that_is_given_up() -> None:
    """Pruning alone is within the limit, with float16 behind it the error is over."""
    model = _model()
    data = _data(model)
    alone = onnxopt.prune(model, sparsity=0.25, calibration=data).report.error
    assert alone is not None
    goal = {"sparsity": 0.25, "max_error": alone.rms * (1 + 1e-9)}
    with pytest.raises(ParityError, match="all steps together") as caught:
        onnxopt.optimize(model, prune=goal, quantize="fp16", calibration=data)
    report = caught.value.report.to_dict()
    assert report["exit_code"] == 3
    assert "all steps together" in " ".join(report["notes"])


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize(("count", "held_out"), [(1, False), (8, True)])
def test_samples_that_were_fitted_on_are_not_called_held_out(count: int, held_out: bool) -> None:
    model = _model()
    report = onnxopt.optimize(model, prune="sparsity=0.5", calibration=_data(model, count)).report
    (said,) = [note for note in report.notes if "all steps together" in note]
    assert ("held-out" in said) == held_out
    assert ("too few samples" in " ".join(report.notes)) == (not held_out)


@pytest.mark.parametrize("count", [4, 5, 7, 10, 23, 64, 100, 200])
def test_what_a_limit_takes_to_fit_on_is_never_measured_on(count: int) -> None:
    model = _model()
    data = _data(model, count)
    _, measuring = open_data(data, model).split(HELD_OUT)
    for limit in range(1, count + 1):
        limited = open_data(data, model, limit=limit)
        fitting, _ = limited.split(HELD_OUT)
        assert not {limited.positions[index] for index in fitting} & set(measuring)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"sparsity": 0.5, "calibration": []}, "calibration is no option of the goal"),
        ({"sparsity": 0.5, "target": "cpu"}, "target is no option of the goal"),
        ({"sparsity": 0.5, "observers": ()}, "observers is no option of the goal"),
        ({}, "give one of sparsity"),
        (0.5, "write flops=0.5"),
    ],
)
def test_goals_that_are_none_are_refused(goal: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        onnxopt.optimize(_model(), prune=goal)


def test_goals_are_read_from_text() -> None:
    assert parse_goal("flops=0.5") == {"target_flops": 0.5}
    assert parse_goal("latency=0.7, max-error=0.3, kind=head+neuron, scope=layer") == {
        "target_latency": 0.7,
        "max_error": 0.3,
        "kinds": ("head", "neuron"),
        "scope": "layer",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune", "0.5"], "write flops=0.5"),
        (["--prune", "speed=2"], "no option 'speed'"),
        (["--prune", "size=half"], "size takes a number"),
        (["--prune", "size=0.5,size=0.4"], "given twice"),
        (["--prune", "sparsity=1.5"], "sparsity is at least 0 and below 1"),
        (["--prune", "max-error=0.1"], "give one of sparsity"),
        (["--prune", "sparsity=0.5", "--standard-operators"], "--standard-operators is not for it"),
        (["--prune", "sparsity=0.5", "--passes", "fold-constants"], "--passes is not for it"),
        (["--calibration", "data.npz"], "neither is asked for"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    result = CliRunner().invoke(cli, ["optimize", str(tmp_path / "m.onnx"), *arguments])
    assert isinstance(result.exception, InvalidInputError)
    assert message in str(result.exception)
    assert not (tmp_path / "m.opt.onnx").exists()


def test_quantized_models_are_refused_with_the_order_that_works(tmp_path: Path) -> None:
    model = parse_model(
        "g (float[N, 8] x) => (float[N, 4] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        {"q": np.ones((8, 4), np.int8), "s": np.float32(0.1)},
    )
    save_model(model, tmp_path / "m.onnx")
    with pytest.raises(InvalidInputError, match=r"m\.onnx is quantized already.*then quantize it"):
        onnxopt.optimize(tmp_path / "m.onnx", prune="sparsity=0.5", quantize="int8")


@pytest.mark.slow
def test_digits_keep_their_accuracy_when_pruned_and_quantized(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "models"))
    from digits_data import digits

    from onnxopt.runtime.session import open_session

    data = digits()
    np.savez(tmp_path / "data.npz", image=data.train_images)
    out = tmp_path / "small.onnx"
    arguments = [str(ROOT / "models" / "digits_cnn.onnx"), "-o", str(out), "--json"]
    arguments += ["--prune", "flops=0.5", "--quantize", "int8"]
    result = CliRunner().invoke(
        cli, ["optimize", *arguments, "--calibration", str(tmp_path / "data.npz")]
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["pruning"]["reached"] < 0.55
    assert report["quantization"]["candidates"]
    (logits,) = open_session(out).run({"image": data.test_images}).values()
    assert np.mean(logits.argmax(-1) == data.test_labels) > 0.97

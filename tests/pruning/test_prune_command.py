"""`onnxopt prune`: files, JSON, pages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model, run

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, ParityError
from onnxopt.graph.saving import save_model
from onnxopt.runtime.measuring.ratio import Ratio


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*args: Any, **options: Any) -> Ratio:
        return Ratio(1.0, 0.99, 1.01, 10)

    for module in ("running", "planning"):
        monkeypatch.setattr(f"onnxopt.pruning.{module}.measure_speed", measure)
    monkeypatch.setattr("onnxopt.pruning.running._SCALE_SECONDS", 0.0)


def _model() -> ir.Model:
    """Hidden units 0 to 15, and near copies of them."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 16))
    first = np.hstack([first, first + 0.01 * rng.standard_normal((8, 16))])
    return parse_model(
        "g (float[N,8] x) => (float[N,4] y) { m = MatMul(x, w) r = Relu(m) y = MatMul(r, v) }",
        {
            "w": first.astype(np.float32),
            "v": rng.standard_normal((32, 4)).astype(np.float32),
        },
    )


def test_command_writes_model_report_and_plot(tmp_path: Path) -> None:
    model = _model()
    save_model(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((64, 8), np.float32))
    arguments = ["prune", str(tmp_path / "m.onnx"), "--target-size", "0.6", "--calibration"]
    arguments += [str(tmp_path / "x.npz"), "--html", str(tmp_path / "page.html")]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["output"] == str(tmp_path / "m.pruned.onnx")
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert report["repairs"][0]["after"] < report["repairs"][0]["before"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<i style="opacity') >= 16
    assert "by hessian: the share of the energy" in page
    assert "http" not in page
    text = CliRunner().invoke(cli, [*arguments, "-v", "-o", str(tmp_path / "n.onnx")])
    assert "parameters:" in text.output
    assert "re-fitted" in text.output


def test_nothing_is_written_when_the_target_cannot_be_met(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    done = CliRunner().invoke(
        cli, ["prune", str(tmp_path / "m.onnx"), "--target-size", "0.01"], standalone_mode=False
    )
    assert isinstance(done.exception, InvalidInputError)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_json_has_the_report_of_a_run_that_is_given_up(tmp_path: Path) -> None:
    save_model(_model(), tmp_path / "m.onnx")
    arguments = ["prune", str(tmp_path / "m.onnx"), "--sparsity", "0.5", "--max-error", "1e-6"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert isinstance(done.exception, ParityError)
    report = json.loads(done.stdout)
    assert report["error"]["rms"] > 1e-6
    assert report["output"] == ""
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert not CliRunner().invoke(cli, arguments).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_vocabulary_alone_keeps_the_rest_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = parse_model(
        "g (int64[N, S] ids) => (float[N, S, 3] y) { e = Gather(t, ids) y = MatMul(e, h) }",
        {
            "t": rng.standard_normal((50, 4)).astype(np.float32),
            "h": rng.standard_normal((4, 3)).astype(np.float32),
        },
    )
    save_model(model, tmp_path / "m.onnx")
    (tmp_path / "ids.txt").write_text("5\n7\n9\n")
    arguments = ["prune", str(tmp_path / "m.onnx"), "--vocabulary", str(tmp_path / "ids.txt")]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    small = onnxopt.load(tmp_path / "m.pruned.onnx")
    feeds = {"ids": np.array([[5, 9, 7]], np.int64)}
    np.testing.assert_allclose(run(small, feeds)[0], run(model, feeds)[0], rtol=1e-6)
    assert json.loads(done.output)["before"]["parameters"] == 212
    (tmp_path / "ids.txt").write_text("5 x")
    bad = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert "entry 2, 'x', is no token id" in str(bad.exception)

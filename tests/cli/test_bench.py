import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, OnnxOptError

CNN, TRANSFORMER = "models/digits_cnn.onnx", "models/digits_transformer.onnx"
QUICK = ("--seconds", "0.05", "--sessions", "2", "--no-load")


def run(*arguments: object):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def test_a_table_and_a_verdict_for_two_models():
    result = run(CNN, TRANSFORMER, *QUICK, "--batch", 4)
    assert result.exit_code == 0, result.output
    assert "batch=4" in result.stdout
    assert "p50 ms" in result.stdout
    assert re.search(
        r"digits_transformer.onnx: (faster|slower|no difference), [\d.]+x", result.stdout
    )


def test_json_is_all_of_stdout():
    data = json.loads(run(CNN, *QUICK, "--json", "--threads", 1).stdout)
    assert data["settings"]["threads"] == 1
    assert data["models"][0]["latency_ms"]["p50"] > 0


def test_profile_lists_operators_and_nodes():
    result = run(CNN, *QUICK, "--profile")
    assert "slowest nodes" in result.stdout
    assert "Conv" in result.stdout


def test_nothing_is_said_when_quiet():
    result = run(CNN, *QUICK, "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_html_plot_needs_nothing_else(tmp_path: Path):
    path = tmp_path / "plot.html"
    assert run(CNN, TRANSFORMER, *QUICK, "--plot", path).exit_code == 0
    page = path.read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "http" not in page
    assert "digits_transformer.onnx" in page


@pytest.mark.parametrize(
    ("plot", "message"), [("x.png", "needs matplotlib"), ("gone/x.html", "folder does not exist")]
)
def test_plot_that_cannot_be_drawn_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plot: str, message: str
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["bench", "is-never-read.onnx", "--plot", str(tmp_path / plot)]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, OnnxOptError)
    assert message in str(result.exception)


def test_png_plot_when_matplotlib_is_installed(tmp_path: Path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    assert run(CNN, TRANSFORMER, *QUICK, "--plot", path).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_threads_of_the_target_are_those_of_the_sessions():
    data = json.loads(run(CNN, *QUICK, "--target", "cpu:threads=1", "--json").stdout)
    assert data["settings"]["threads"] == 1
    assert data["settings"]["provider"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--provider", "cuda"], "CUDAExecutionProvider"),
        (["--target", "tpu"], "cpu or cuda"),
        (["--target", "cpu:isa=neon"], "isa=neon"),
        (["--target", "cpu:threads=2", "--threads", "1"], "contradict"),
        (["--plot", "x.pdf"], ".html or .png"),
        (["--input-shape", "image=1"], "4 dimensions"),
        (["--inputs", "missing.npz"], "does not exist"),
        (["missing.onnx"], "missing.onnx"),
    ],
)
def test_one_line_when_something_is_wrong(arguments: list[str], message: str):
    result = run(CNN, *QUICK, *arguments)
    assert isinstance(result.exception, InvalidInputError) or result.exception.exit_code == 2
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)

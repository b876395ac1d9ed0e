"""`onnxopt quantize --mode weight-only`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model

from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.saving import save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    graph = parse_model("g (float[N,64] x) => (float[N,96] y) { y = MatMul(x, w) }", {"w": weight})
    save_model(graph, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_weights_are_quantized_and_reported(model: Path) -> None:
    arguments = ["quantize", str(model), "--mode", "weight-only", "--block-size", "16", "--json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert report["output"] == str(model.with_name("m.int4.onnx"))
    (weight,) = report["weights"]
    assert (weight["name"], weight["bits"], weight["block_size"]) == ("w", 4, 16)


def test_gptq_reads_the_calibration_data(model: Path) -> None:
    data = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    np.savez(model.with_name("x.npz"), x=data)
    done = CliRunner().invoke(
        cli,
        [
            *("quantize", str(model), "--mode", "weight-only", "--algorithm", "gptq"),
            *("--calibration", str(model.with_name("x.npz"))),
        ],
    )
    assert done.exit_code == 0, done.output
    assert "w (gptq)" in done.output


def test_options_of_another_mode_are_refused(model: Path) -> None:
    done = CliRunner().invoke(cli, ["quantize", str(model), "--bits", "4"])
    assert isinstance(done.exception, InvalidInputError)
    assert "--bits belongs to --mode weight-only" in str(done.exception)
    done = CliRunner().invoke(
        cli, ["quantize", str(model), "--mode", "weight-only", "--algorithm", "awq"]
    )
    assert "needs calibration data" in str(done.exception)
    assert not model.with_name("m.int4.onnx").exists()

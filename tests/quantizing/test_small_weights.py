"""`optimize(quantize="int4" | "fp16" | "bf16")`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.rewriting import parse_model

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, ParityError, SaveError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((64, 96)).astype(np.float32) * 0.2,
        "b": rng.standard_normal((96, 64)).astype(np.float32) * 0.2,
    }
    model = parse_model(
        "g (float[N,64] x) => (float[N,64] y)"
        " { i = Identity(x)  h = MatMul(i, a)  r = Relu(h)  y = MatMul(r, b) }",
        weights,
    )
    onnxopt.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def _data() -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)}]


@pytest.mark.parametrize(
    ("to", "share", "operator"),
    [("int4", 0.2, "MatMulNBits"), ("fp16", 0.51, "Cast"), ("bf16", 0.51, "Cast")],
)
def test_the_optimized_model_gets_small_weights(
    source: Path, to: Any, share: float, operator: str
) -> None:
    target = source.with_name("out.onnx")
    result = onnxopt.optimize(source, target, quantize=to)
    operators = [node.op_type for node in onnxopt.load(target).graph]
    assert operator in operators
    assert "Identity" not in operators
    report = result.report
    assert report.after.weight_bytes < share * report.before.weight_bytes
    assert report.output == str(target)
    assert report.to_dict()["quantization"]["output"] == str(target)


def test_int4_says_how_far_the_outputs_are_and_uses_the_data(source: Path) -> None:
    texts = [
        onnxopt.optimize(source, quantize="int4", calibration=data).report.to_text()
        for data in (None, _data())
    ]
    assert "(mse)" in texts[0]
    assert "2 synthesized input sets" in texts[0]
    assert "(gptq)" in texts[1]
    assert "given input sets" in texts[1]


def test_what_cannot_be_written_to_is_told_before_any_work(source: Path) -> None:
    with pytest.raises(SaveError, match="does not exist"):
        onnxopt.optimize(source, source.parent / "no" / "m.onnx", quantize="int4")


def test_other_types_are_one_clear_line(source: Path) -> None:
    with pytest.raises(InvalidInputError, match="quantize is int8, int4, fp16, bf16 or None"):
        onnxopt.optimize(source, quantize="int3")  # type: ignore[arg-type]


def test_command_stores_4_bits(source: Path) -> None:
    done = CliRunner().invoke(cli, ["optimize", str(source), "--quantize", "int4"])
    assert done.exit_code == 0, done.output
    assert "bits  block" in done.output


def test_an_error_beyond_the_largest_one_writes_nothing(source: Path) -> None:
    target = source.with_name("out.onnx")
    arguments = ["optimize", f"{source}", "-o", f"{target}", "--quantize", "int4", "--max-error"]
    done = CliRunner().invoke(cli, [*arguments, "1e-9"])
    assert isinstance(done.exception, ParityError)
    assert "nothing was written" in str(done.exception)
    assert not target.exists()
    done = CliRunner().invoke(cli, [*arguments, "0.5"])
    assert done.exit_code == 0, done.output
    assert target.exists()


def test_report_is_printed_when_the_error_is_over_the_limit(source: Path, tmp_path: Path) -> None:
    arguments = ["optimize", str(source), "--quantize", "int4", "--max-error", "1e-9", "--json"]
    done = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "out.onnx")])
    assert isinstance(done.exception, ParityError)
    report = json.loads(done.stdout)
    assert report["exit_code"] == 3
    assert report["quantization"]["refusals"] is not None


def test_the_largest_error_is_the_tolerance_of_a_conversion(source: Path) -> None:
    report = onnxopt.optimize(source, quantize="fp16", max_error=0.123).report.to_dict()
    assert report["quantization"]["tolerance"] == 0.123


def test_a_largest_error_without_quantizing_is_refused(source: Path) -> None:
    with pytest.raises(InvalidInputError, match="is for quantizing"):
        onnxopt.optimize(source, max_error=0.1)


def test_int4_with_data_on_a_model_that_only_looks_up(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((512, 256)).astype(np.float32)
    model = parse_model("g (int64[N] x) => (float[N,256] y) { y = Gather(t, x) }", {"t": table})
    result = onnxopt.optimize(model, quantize="int4", calibration=[{"x": np.arange(9)}])
    assert "nothing to calibrate" in result.report.to_text(verbose=True)


@pytest.mark.parametrize(
    "step", [["--quantize", "int4"], ["--quantize", "int8"], ["--prune", "flops=0.5"]]
)
def test_a_limit_of_time_that_nothing_keeps_is_refused(source: Path, step: list[str]) -> None:
    arguments = ["optimize", str(source), *step, "--parity-timeout", "5"]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, InvalidInputError)
    assert "--parity-timeout" in str(error)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_the_converter_of_opsets_is_isolated_before_quantizing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    monkeypatch.setattr(
        "onnxopt.runtime.opset_trial.try_opset", lambda model, opset: tried.append(opset)
    )
    onnxopt.optimize(source, quantize="int4", opset=20, isolated=True)
    assert tried == [20]

"""`quantize` and its command: what is chosen, what is refused, what is reported."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.measuring.ratio import Ratio

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized models count as twice as fast: nothing is timed in tests."""
    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timing(2.0))


def timing(ratio: float) -> Any:
    return lambda base, other, **options: Ratio(ratio, ratio * 0.99, ratio * 1.01, 10)


def mlp() -> ir.Model:
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 64] x, float[64, 96] w, float[96] b,'
        " float[96, 8] v) => (float[N, 8] y)"
        " { m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v) }"
    )
    for value in list(model.graph.inputs[1:]):
        shape = [dim for dim in value.shape or () if isinstance(dim, int)]
        array = rng.standard_normal(shape).astype(np.float32) / 8
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"{node.op_type}_{node.outputs[0].name}"
    return model


def data(count: int = 20) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((3, 64)).astype(np.float32)} for _ in range(count)]


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_without_data_only_dynamic_forms_are_tried_and_it_is_said() -> None:
    result = onnxopt.quantize(mlp())
    assert result.report.chosen == "dynamic"
    assert operators(result.model)["DynamicQuantizeMatMul"] == 1  # the other is too small
    assert any("no data given" in note for note in result.report.notes)


def test_with_data_static_forms_are_tried_as_well(tmp_path: Path) -> None:
    result = onnxopt.quantize(mlp(), tmp_path / "q.onnx", calibration=data())
    assert {one.name.split()[0] for one in result.report.candidates} == {"static", "dynamic"}
    assert result.report.samples == 15
    assert result.report.measured == 16  # the 5 others, and more to have enough
    assert (tmp_path / "q.onnx").exists()
    assert all(one.error is not None and one.error < 0.05 for one in result.report.candidates)


def test_a_slower_form_is_never_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timing(0.8))
    result = onnxopt.quantize(mlp(), tmp_path / "q.onnx", calibration=data())
    assert not result.report.is_quantized
    assert "QuantizeLinear" not in operators(onnxopt.load(tmp_path / "q.onnx"))
    assert {one.verdict for one in result.report.candidates} == {"not proven faster than float"}
    assert "stays float" in result.report.to_text()
    forced = onnxopt.quantize(mlp(), calibration=data(), mode="static", force=True)
    assert forced.report.is_quantized


def test_sensitive_nodes_go_back_to_float_until_the_budget_is_met() -> None:
    model = mlp()
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    outlier = weight.const_value.numpy().copy()
    outlier[0] *= 300  # one scale for such a tensor loses the rest of it
    weight.const_value = ir.Tensor(outlier, name="w")
    options: dict[str, Any] = {"calibration": data(), "mode": "static", "target": "cpu:isa=vnni"}
    everything = onnxopt.quantize(model, **options, max_error=10.0)
    worst = everything.report.candidates[0].error
    assert worst is not None
    result = onnxopt.quantize(model, **options, max_error=worst * 0.95)
    chosen = next(one for one in result.report.candidates if one.verdict == "chosen")
    assert chosen.error is not None
    assert chosen.error <= worst * 0.95
    assert chosen.excluded
    assert any("sensitive" in entry.state and entry.share for entry in result.report.nodes)


def test_the_cosine_alone_can_be_the_budget() -> None:
    options: dict[str, Any] = {"calibration": data(), "mode": "static", "target": "cpu:isa=vnni"}
    (loose,) = onnxopt.quantize(mlp(), **options, min_cosine=0.5).report.candidates
    assert loose.cosine is not None
    assert loose.verdict == "chosen"
    limit = 1 - (1 - loose.cosine) * 0.9
    result = onnxopt.quantize(mlp(), **options, min_cosine=limit)
    for one in result.report.candidates:
        assert one.cosine is not None
        assert (one.verdict == "chosen") == (one.cosine >= limit)


def test_where_int8_saturates_uint8_weights_save_a_form_over_the_budget() -> None:
    options: dict[str, Any] = {"calibration": data(), "mode": "dynamic", "correct_bias": False}
    (coarse,) = onnxopt.quantize(mlp(), **options, target="cpu:isa=avx2").report.candidates
    assert coarse.cosine is not None
    limit = 1 - (1 - coarse.cosine) * 0.8
    result = onnxopt.quantize(mlp(), **options, target="cpu:isa=avx2", min_cosine=limit)
    assert result.report.chosen == "dynamic (uint8 weights)"
    (product,) = [n for n in result.model.graph if n.op_type == "DynamicQuantizeMatMul"]
    assert product.inputs[1] is not None
    assert product.inputs[1].dtype == ir.DataType.UINT8


def test_a_static_form_that_is_slow_is_tried_with_fewer_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timer(base: ir.Model, other: ir.Model, **options: Any) -> Ratio:
        ratio = 2.0 if operators(other)["QuantizeLinear"] == 1 else 0.9
        return Ratio(ratio, ratio * 0.99, ratio * 1.01, 10)

    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timer)
    wide = mlp()
    weight = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32) / 16
    wide.graph.initializers["u"] = ir.Value(name="u", const_value=ir.Tensor(weight, name="u"))
    wide.graph.inputs[0].shape = ir.Shape(["N", 300])
    first = ir.node("MatMul", [wide.graph.inputs[0], wide.graph.initializers["u"]], name="first")
    first.outputs[0].name = "first"
    wide.graph[0].replace_input_with(0, first.outputs[0])
    wide.graph.insert_before(wide.graph[0], first)
    samples = [{"x": np.tile(one["x"], 5)[:, :300]} for one in data()]
    result = onnxopt.quantize(wide, calibration=samples, mode="static", method="min-max")
    assert "large" in result.report.chosen
    assert sum(entry.state == "quantized" for entry in result.report.nodes) == 1
    assert any("too few to pay" in entry.state for entry in result.report.nodes)


def test_a_result_slower_than_the_model_given_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = mlp()

    def timer(base: ir.Model, other: ir.Model, **options: Any) -> Ratio:
        ratio = 0.9 if base is given else 1.5
        return Ratio(ratio, ratio * 0.99, ratio * 1.01, 10)

    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timer)
    result = onnxopt.quantize(given, calibration=data())
    assert operators(result.model) == operators(given)
    assert not result.report.is_quantized
    assert any("as it was given" in note for note in result.report.notes)


def test_a_float16_model_is_quantized_from_float32() -> None:
    model = mlp()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        half = value.const_value.numpy().astype(np.float16)
        value.const_value = ir.Tensor(half, name=value.name)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    samples = [{"x": one["x"].astype(np.float16)} for one in data()]
    result = onnxopt.quantize(model, calibration=samples)
    assert result.report.is_quantized
    assert [v.dtype for v in result.model.graph.outputs] == [ir.DataType.FLOAT16]
    assert any("float16" in note for note in result.report.notes)


def test_a_table_is_written_reused_and_belongs_to_one_model(tmp_path: Path) -> None:
    table = tmp_path / "t.npz"
    first = onnxopt.quantize(mlp(), calibration=data(), calibration_table=table)
    again = onnxopt.quantize(mlp(), calibration=data(), calibration_table=table)
    assert table.exists()
    assert first.report.candidates == again.report.candidates
    assert "calibrate" not in again.report.seconds
    other = mlp()
    other.graph.initializers["v"].const_value = ir.Tensor(np.ones((96, 8), np.float32), name="v")
    with pytest.raises(InvalidInputError, match="another model"):
        onnxopt.quantize(other, calibration=data(), calibration_table=table)


def test_excluded_nodes_stay_float_and_globs_must_match() -> None:
    result = onnxopt.quantize(mlp(), exclude=["MatMul_m"])
    assert not result.report.is_quantized
    with pytest.raises(InvalidInputError, match="matches no node"):
        onnxopt.quantize(mlp(), exclude=["nothing*"])


def test_a_quantized_model_is_recognized() -> None:
    once = onnxopt.quantize(mlp(), calibration=data(), mode="static").model
    again = onnxopt.quantize(once, calibration=data(), mode="static")
    assert any("quantized already" in note for note in again.report.notes)
    assert operators(again.model) == operators(once)


def test_static_needs_data() -> None:
    with pytest.raises(InvalidInputError, match="--calibration"):
        onnxopt.quantize(mlp(), mode="static")


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "fast"},
        {"method": "none"},
        {"percentile": 3},
        {"max_error": 0.0},
        {"weight_type": "int4"},
        {"budget": 0},
        {"colour": "red"},
        {"min_cosine": 2},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        onnxopt.quantize(mlp(), **options)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "static", "dynamic"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "entropy"},
        {"method": "percentile", "per_channel": False},
        {"method": "moving-average", "activation_type": "int8", "reduce_range": True},
        {"activation_type": "uint16", "method": "min-max"},
        {"embeddings": True},
        {"weight_type": "uint8", "method": "mse"},
        {"target": "cuda", "method": "min-max"},
    ],
)
def test_no_combination_crashes(
    mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if options.get("target") == "cuda":
        monkeypatch.setattr("onnxopt.targets.Target.execution_providers", ("CPUExecutionProvider",))
    result = onnxopt.quantize(
        MODELS / "digits_cnn.onnx", calibration=digits(16), mode=mode, **options
    )
    assert result.report.to_dict()["chosen"]


def digits(count: int) -> list[dict[str, np.ndarray]]:
    from digits_data import digits as load

    images = load().test_images
    name = onnxopt.load(MODELS / "digits_cnn.onnx").graph.inputs[0].name or ""
    return [{name: images[i : i + 1]} for i in range(count)]


def test_the_command_writes_json_and_the_model(tmp_path: Path) -> None:
    onnxopt.save(mlp(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in data()]))
    run = CliRunner().invoke(
        cli,
        [
            "quantize",
            str(tmp_path / "m.onnx"),
            "--calibration",
            str(tmp_path / "data.npz"),
            "--json",
        ],
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["is_quantized"]
    assert (tmp_path / "m.int8.onnx").exists()


def test_the_search_ends_with_its_budget() -> None:
    result = onnxopt.quantize(mlp(), calibration=data(), max_error=1e-9, budget=1e-3)
    assert not result.report.is_quantized
    assert any("more may be found" in note for note in result.report.notes)


def test_optimize_quantizes_in_the_same_call(tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnxopt.save(mlp(), source)
    result = onnxopt.optimize(source, target, quantize="int8", calibration=data())
    assert "QuantizeLinear" in operators(onnxopt.load(target))
    assert result.report.output == str(target)
    assert result.report.after.weight_bytes < result.report.before.weight_bytes
    report = result.report.to_dict()
    assert report["quantization"]["is_quantized"]
    assert report["passes"]
    assert "as fast as float" in result.report.to_text()
    with pytest.raises(InvalidInputError, match="calibration"):
        onnxopt.optimize(source, calibration=data())


def test_command_optimize_quantizes(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnxopt.save(mlp(), source)
    found = CliRunner().invoke(cli, ["optimize", str(source), "--quantize", "int8"])
    assert found.exit_code == 0, found.output
    assert "dynamic" in found.output
    assert (tmp_path / "m.opt.onnx").exists()

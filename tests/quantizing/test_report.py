"""What `quantize` says: sizes, verdicts, reasons by node, and what a larger budget would buy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxopt
from onnxopt.calibration.collecting import collect
from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.integer_kernels import INTEGER_OPERATORS
from onnxopt.quantizing.forms import Basis, Form, observed_names
from onnxopt.quantizing.improving import Improving
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.quantizing.preparing import check_provider
from onnxopt.quantizing.tried import Tried
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.parity.deviation import Deviation


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized models count as twice as fast: nothing is timed in tests."""
    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timing(lambda _: 2.0))


def timing(speed: Callable[[ir.Model], float]) -> Any:
    def timer(base: ir.Model, other: ir.Model, **options: Any) -> Ratio:
        ratio = speed(other)
        return Ratio(ratio, ratio * 0.99, ratio * 1.01, 10)

    return timer


def network(body: str, weights: dict[str, tuple[int, ...]], entry: str = "float[N, 64] x") -> Any:
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({entry}) => (float[N, M] y) {{ {body} }}'
    )
    model.graph.outputs[0].shape = None
    made = {}
    for name, shape in weights.items():
        array = rng.standard_normal(shape).astype(np.float32) / 8
        made[name] = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(shape),
            const_value=ir.Tensor(array, name=name),
        )
        model.graph.register_initializer(made[name])
    for node in model.graph:
        node.name = f"{node.op_type}_{node.outputs[0].name}"
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in made:
                node.replace_input_with(index, made[value.name])
    return model


def mlp() -> ir.Model:
    return network(
        "m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v)",
        {"w": (64, 96), "b": (96,), "v": (96, 8)},
    )


def data(count: int = 20, shape: tuple[int, ...] = (3, 64)) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def states(result: onnxopt.QuantizeResult) -> dict[str, str]:
    return {entry.name: entry.state for entry in result.report.nodes}


def test_sizes_are_those_of_the_file_that_was_given() -> None:
    model = mlp()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        half = value.const_value.numpy().astype(np.float16)
        value.const_value = ir.Tensor(half, name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    samples = [{"x": one["x"].astype(np.float16)} for one in data()]
    report = onnxopt.quantize(model, calibration=samples).report
    assert report.bytes_before == 2 * (64 * 96 + 96 + 96 * 8)
    assert report.is_quantized


def is_static(model: ir.Model) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def integer_nodes(model: ir.Model) -> int:
    return sum(node.op_type in INTEGER_OPERATORS for node in model.graph)


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """The errors of both forms of the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxopt.quantizing.running.measure_speed", timing(lambda _: 2.0))
        report = onnxopt.quantize(mlp(), **PLAIN, max_error=0.9).report
    return {one.name: one.error or 0.0 for one in report.candidates}


PLAIN: dict[str, Any] = {
    "calibration": data(),
    "repair": "none",
    "method": "min-max",
    "correct_bias": False,
    "target": "cpu:isa=avx2",
    "reduce_range": True,
}


def test_what_a_larger_budget_would_buy_is_told(
    errors: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    worse, better = sorted(errors, key=lambda name: -errors[name])
    limit = (errors[better] + errors[worse]) / 2

    def speed(model: ir.Model) -> float:
        return 1.0 + integer_nodes(model) if is_static(model) == ("static" in worse) else 1.2

    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timing(speed))
    report = onnxopt.quantize(mlp(), **PLAIN, max_error=limit).report
    (over,) = (one for one in report.candidates if one.name == worse and not one.excluded)
    assert over.verdict == "over the budget of error"
    (allowance,) = report.allowances
    assert (allowance.form, allowance.speed) == (worse, over.speed)
    needed = allowance.needed["--max-error"]
    assert errors[worse] < needed < errors[worse] * 1.11
    assert f"--max-error {needed:.6g} would allow {worse}: " in report.to_text()
    assert report.to_dict()["allowances"][0]["needed"] == {"--max-error": needed}
    again = onnxopt.quantize(mlp(), **PLAIN, max_error=needed).report
    assert again.chosen == worse
    assert not again.allowances


def test_a_slower_form_over_the_budget_is_not_only_called_slower(
    errors: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    worse, better = sorted(errors, key=lambda name: -errors[name])

    def speed(model: ir.Model) -> float:
        return 1.2 if is_static(model) == ("static" in worse) else 2.0

    monkeypatch.setattr("onnxopt.quantizing.running.measure_speed", timing(speed))
    limit = (errors[better] + errors[worse]) / 2
    report = onnxopt.quantize(mlp(), **PLAIN, max_error=limit).report
    verdicts = {one.name: one.verdict for one in report.candidates}
    assert verdicts[better] == "chosen"
    assert verdicts[worse] == "over the budget of error, and slower than another form"
    assert not report.allowances


@pytest.mark.parametrize(("gain", "verdict"), [(1.0, "undone"), (0.999, "undone"), (0.9, "kept")])
def test_a_repair_that_gains_nothing_is_not_kept(gain: float, verdict: str) -> None:
    def tried(form: Form, typical: float) -> Tried:
        deviation = Deviation(0.0529, typical, 0.999, "y", typical=typical)
        return Tried(form, None, deviation=deviation)

    one = tried(Form("static", "mse"), 0.02)
    improving = Improving(
        ["rounding"],
        lambda form: tried(form, 0.02 * gain),
        lambda _: None,
        lambda _: True,
        corrects=False,
    )
    better = improving.improve(one, end=float("inf"))
    (entry,) = improving.entries
    assert entry.verdict.startswith(verdict)
    assert (better is one) == (verdict == "undone")
    assert entry.after is not None
    assert entry.after.typical == 0.02 * gain


def test_a_model_that_is_int8_already_is_called_so() -> None:
    once = onnxopt.quantize(mlp(), calibration=data(), mode="static").model
    result = onnxopt.quantize(once, calibration=data(), mode="auto")
    first = result.report.to_text().splitlines()[0]
    assert "quantized already" in first
    assert "stays float" not in first
    assert result.report.quantized_before > 0
    assert set(states(result).values()) == {"quantized already"}


def test_where_no_form_is_possible_every_node_says_why() -> None:
    model = network(
        "m = MatMul(x, w) r = Relu(m) y = Gemm<alpha = 0.5>(r, v)", {"w": (64, 9), "v": (9, 4)}
    )
    result = onnxopt.quantize(model, mode="dynamic")
    assert not result.report.candidates
    assert all("too small" in state for state in states(result).values())
    assert len(states(result)) == 2
    assert "too small to pay" in result.report.to_text()


def test_what_a_chosen_form_leaves_in_float_says_why() -> None:
    model = network(
        "c = Conv(x, k) f = Flatten(c) m = MatMul(f, w) y = Relu(m)",
        {"k": (16, 4, 1, 1), "w": (64, 96)},
        "float[N, 4, 2, 2] x",
    )
    result = onnxopt.quantize(model, mode="dynamic", target="cpu:isa=avx2")
    assert result.report.chosen == "dynamic"
    assert states(result)["MatMul_m"] == "quantized"
    assert "ConvInteger" in states(result)["Conv_c"]


def test_models_that_are_out_of_the_choice_are_not_kept() -> None:
    one = Tried(Form("dynamic"), mlp())
    one.drop("not faster than float")
    assert one.model is None
    assert one.as_candidate().verdict == "not faster than float"


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_weight_that_is_not_finite_stays_in_float_and_is_named(
    broken: float, mode: str, name: str
) -> None:
    model = network(
        "m = Gemm(x, w, b) r = Relu(m) y = MatMul(r, v)", {"w": (64, 96), "b": (96,), "v": (96, 80)}
    )
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    array.flat[3] = broken
    value.const_value = ir.Tensor(array, name=name)
    form = Form("static" if mode == "static" else "dynamic", "min-max")

    table = collect(model, observed_names(model), open_data(data(), model))
    built, _, refusals = form.build(Basis(model, table), QuantizeOptions())
    reasons = {one.node: one.reason for one in refusals}
    assert name in reasons["Gemm_m"]
    assert "NaN or infinity" in reasons["Gemm_m"]
    assert built.graph.initializers[name].const_value is value.const_value


def test_a_target_that_is_not_here_is_refused_unless_a_form_is_forced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    providers = ("NowhereExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr("onnxopt.targets.Target.execution_providers", providers)
    options: dict[str, Any] = {"calibration": data(), "mode": "static", "method": "min-max"}
    with pytest.raises(InvalidInputError, match="has no NowhereExecutionProvider"):
        onnxopt.quantize(mlp(), **options)
    assert check_provider(QuantizeOptions(mode="static", force=True)) == [
        "the installed ONNX Runtime has no NowhereExecutionProvider: error and speed are those on "
        "the CPU"
    ]


def test_notes_say_nothing_of_what_was_not_done() -> None:
    once = onnxopt.quantize(mlp(), calibration=data(), mode="static").model
    again = onnxopt.quantize(once)
    assert not any("measured" in note for note in again.report.notes)

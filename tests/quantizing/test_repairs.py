"""Accuracy repairs in `quantize`: what is kept, what is undone, and metrics that decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

import onnxopt
from onnxopt.calibration.data import open_data
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.quantization import Encoding
from onnxopt.passes.quantization.saturation import LARGEST_PAIR, largest_pairs
from onnxopt.quantizing.options import AUTO_REPAIRS, QuantizeOptions
from onnxopt.quantizing.rounding import solve_roundings
from onnxopt.quantizing.smoothing import search_scales
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.session import open_session


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized models count as twice as fast: nothing is timed in tests."""
    monkeypatch.setattr(
        "onnxopt.quantizing.running.measure_speed", lambda *_, **__: Ratio(2.0, 1.98, 2.02, 10)
    )


def constant(model: ir.Model, name: str, array: np.ndarray) -> None:
    value = next(v for v in model.graph.inputs if v.name == name)
    model.graph.inputs.remove(value)
    value.const_value = ir.Tensor(array.astype(np.float32), name=name)
    model.graph.register_initializer(value)


def network() -> ir.Model:
    """A normalization with one channel of outliers, and two products; another weight is tied."""
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 32] x, float[32] g, float[32, 64] w,'
        " float[64] b, float[64, 64] t, float[64, 10] v) => (float[N, 10] y) {"
        " n = LayerNormalization(x, g) m = MatMul(n, w) a = Add(m, b) r = Relu(a)"
        " p = MatMul(r, t) s = Relu(p) q = MatMul(s, t) o = Relu(q) y = MatMul(o, v) }"
    )
    gains = np.ones(32)
    gains[5] = 80
    mixing = rng.standard_normal((32, 64)) / 6
    mixing[5] /= 40
    constant(model, "g", gains)
    constant(model, "w", mixing)
    constant(model, "b", rng.standard_normal(64) / 6)
    constant(model, "t", rng.standard_normal((64, 64)) / 8)
    constant(model, "v", rng.standard_normal((64, 10)) / 8)
    for node in model.graph:
        node.name = f"{node.op_type}_{node.outputs[0].name}"
    return model


def data(count: int = 24, rows: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((32, 32)) * np.geomspace(1, 0.02, 32)[:, None]
    return [
        {"x": (rng.standard_normal((rows, 32)) @ mixing).astype(np.float32)} for _ in range(count)
    ]


def quantized(repair: str, **options: Any) -> onnxopt.quantizing.QuantizeResult:
    defaults = {"mode": "static", "max_error": 10.0, "method": "min-max"}
    return onnxopt.quantize(network(), calibration=data(), repair=repair, **defaults | options)


def chosen_error(result: onnxopt.quantizing.QuantizeResult) -> float:
    found = next(one for one in result.report.candidates if one.verdict == "chosen")
    assert found.error is not None
    return found.error


def test_repairs_lower_the_error_and_are_reported() -> None:
    plain, repaired = quantized("none"), quantized("auto")
    assert not plain.report.repairs
    assert chosen_error(repaired) < 0.6 * chosen_error(plain)
    kept = {one.repair for one in repaired.report.repairs if one.verdict == "kept"}
    assert "smooth" in kept
    assert "smooth" in repaired.report.chosen
    assert "repair smooth of static: kept, largest error" in repaired.report.to_text()
    assert repaired.report.to_dict()["repairs"]


def test_what_does_not_help_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "onnxopt.quantizing.repairing.ranges_by_output",
        lambda *_, **__: onnxopt.quantizing.forms.Ranges(
            dict.fromkeys(("x", "n", "r", "s", "o"), (-0.01, 0.01))
        ),
    )
    result = quantized("ranges", correct_bias=False)
    (entry,) = result.report.repairs
    assert entry.verdict == "undone: no smaller error"
    assert entry.after is not None
    assert entry.before is not None
    assert entry.after.error > entry.before.error
    assert "ranges" not in result.report.chosen


@pytest.mark.parametrize("repair", ["equalize", "ranges", "rounding", "smooth,rounding"])
def test_no_repair_makes_it_worse(repair: str) -> None:
    plain, result = (quantized(one, correct_bias=False) for one in ("none", repair))
    assert [one.repair for one in result.report.repairs] == repair.split(",")
    before, after = (
        next(one for one in found.report.candidates if one.verdict == "chosen")
        for found in (plain, result)
    )
    assert before.error is not None
    assert after.error is not None
    assert before.cosine is not None
    assert after.cosine is not None
    assert after.error <= before.error or after.cosine >= before.cosine


def test_dynamic_forms_are_repaired_as_well() -> None:
    result = quantized("rounding", mode="dynamic")
    assert {one.form for one in result.report.repairs} == {"dynamic"}
    assert result.report.repairs[0].repair == "rounding"


@pytest.mark.parametrize(("kind", "reduced"), [("int8", False), ("int8", True), ("uint8", False)])
def test_rounded_weights_fit_their_type_and_tied_ones_keep_the_nearest(
    kind: Any, reduced: bool
) -> None:
    model = network()
    found = solve_roundings(
        model,
        onnxopt.calibration.data.open_data(data(), model),
        range(24),
        encoding=Encoding(kind, True, reduced),
        per_channel=True,
        max_memory=1 << 20,
    )
    assert "w" in found
    assert "t" not in found
    assert found["w"].integers.dtype == kind
    assert found["w"].integers.shape == (32, 64)
    if reduced:
        assert largest_pairs(found["w"].integers.astype(np.int16), 1).max() <= LARGEST_PAIR


def test_without_data_nothing_is_repaired() -> None:
    assert not onnxopt.quantize(network(), max_error=10.0).report.repairs


def test_names_of_repairs_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="the repair is one of auto, none, equalize"):
        quantized("magic")
    with pytest.raises(InvalidInputError, match="not both"):
        quantized("none,smooth")
    assert QuantizeOptions(repair=("auto", "smooth")).repairs == AUTO_REPAIRS


def labels() -> np.ndarray:
    session = open_session(network())
    return np.concatenate([session.run(feeds)["y"].argmax(-1) for feeds in data()])


def test_labels_decide_and_half_of_the_data_is_kept_for_them() -> None:
    result = quantized("none", max_error=None, labels=labels(), max_accuracy_drop=0.5)
    assert result.report.metric == "top-1 accuracy"
    assert result.report.float_score == 1.0
    assert result.report.measured == 12
    chosen = next(one for one in result.report.candidates if one.verdict == "chosen")
    assert chosen.score is not None
    assert chosen.score >= 0.5
    assert "top-1 accuracy of the float model: 1.0000" in result.report.to_text()


def test_a_form_that_loses_too_much_accuracy_gets_nodes_back() -> None:
    free = quantized("none", labels=labels(), max_accuracy_drop=1.0)
    lowest = next(one.score for one in free.report.candidates if one.verdict == "chosen")
    assert lowest is not None
    assert lowest < 1
    result = quantized("none", labels=labels(), max_accuracy_drop=(1 - lowest) / 2)
    chosen = [one for one in result.report.candidates if one.verdict == "chosen"]
    assert not chosen or (chosen[0].excluded and chosen[0].score >= 1 - (1 - lowest) / 2)


def test_a_metric_of_the_user_counts_samples_as_they_were_given() -> None:
    seen = set()

    def metric(outputs: Any, sample: int) -> float:
        seen.add(sample)
        assert outputs["y"].shape == (8, 10)
        return 1.0

    result = quantized("none", metric=metric)
    assert seen == set(range(12, 24))
    assert result.report.metric == "metric"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": np.zeros(7, int)}, "7 labels do not fit 24 samples of 8 rows"),
        ({"labels": np.zeros((4, 2))}, "no list of whole numbers"),
        ({"labels": [[1], [1, 2]]}, "no list of whole numbers"),
        ({"labels": "missing.npy"}, "missing.npy: cannot be read"),
        ({"labels": "labels.bin"}, "labels are in .npy"),
        ({"labels": np.zeros(192, int), "metric": len}, "give one of them"),
        ({"metric": "nothing"}, "is no metric"),
        ({"metric": lambda *_: float("nan")}, "the metric is nan on sample"),
        ({"metric": lambda *_: 1 / 0}, "the metric failed"),
        ({"max_accuracy_drop": -1.0}, "0 or more"),
    ],
)
def test_bad_metrics_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        quantized("none", **options)


def test_labels_without_data_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="need the data they belong to"):
        onnxopt.quantize(network(), labels=np.zeros(3, int))


def test_the_command_takes_labels_and_repairs(tmp_path: Path) -> None:
    onnxopt.graph.saving.save_model(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.concatenate([one["x"] for one in data()]))
    (tmp_path / "labels.txt").write_text("\n".join(map(str, labels())))
    arguments = ["quantize", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "x.npz")]
    arguments += ["--labels", str(tmp_path / "labels.txt"), "--max-accuracy-drop", "0.5"]
    arguments += ["--mode", "static", "--repair", "smooth,rounding"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "top-1 accuracy" in result.output
    assert "repair smooth of static" in result.output


@pytest.mark.parametrize(("spread", "passes"), [(0.0, True), (0.5, False)])
def test_a_metric_that_scatters_proves_nothing(spread: float, passes: bool) -> None:
    """The mean is the float model's either way; its standard error counts as a drop."""
    of_float = 12  # half of the data, scored first

    calls: list[int] = []

    def score(outputs: Any, sample: int) -> float:
        calls.append(sample)
        return 1.0 if len(calls) <= of_float else 1.0 + spread * (-1) ** sample

    result = quantized("none", metric=score, max_error=None, correct_bias=False)
    assert result.report.is_quantized is passes
    assert result.report.float_score == 1.0


def test_repairs_stop_when_time_is_up() -> None:
    model = network()
    given = open_data(data(), model)
    encoding = Encoding("int8", True)
    options: dict[str, Any] = {"per_channel": True, "max_memory": 1 << 28}
    for end, found in ((float("inf"), True), (0.0, False)):
        roundings = solve_roundings(model, given, [0, 1], encoding=encoding, end=end, **options)
        assert bool(roundings) is found
        scales = search_scales(
            model,
            given,
            [0, 1],
            activations=Encoding("uint8"),
            weights=encoding,
            end=end,
            **options,
        )
        assert bool(scales) is found

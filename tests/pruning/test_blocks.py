"""Whole blocks and layers in `prune`: which go, what is made up for, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.residual import encoder, resnet
from helpers.rewriting import op_types, random_feeds, run

import onnxopt
from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.axes.groups import PruningGroup
from onnxopt.graph.inference import infer_model
from onnxopt.graph.linear_maps import LinearMap
from onnxopt.graph.residuals import residual_blocks, spans
from onnxopt.pruning.allocating import Allocation
from onnxopt.pruning.blocks import span_costs
from onnxopt.pruning.entries import group_entries
from onnxopt.pruning.gains import unit_gain
from onnxopt.runtime.diagnosis.probing import Probe
from onnxopt.runtime.measuring.ratio import Ratio

MODELS = Path(__file__).resolve().parent.parent.parent / "models"


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a run is its number of weights, of a node that of its own."""

    def measure(base: ir.Model, other: ir.Model, *args: Any, **options: Any) -> Ratio:
        ratio = _parameters(base) / _parameters(other)
        return Ratio(ratio, ratio, ratio, 10)

    def times(model: ir.Model, *args: Any) -> dict[str, float]:
        return {
            node.name or "": 1e-3 * sum(v.const_value.size for v in node.inputs if v.const_value)
            for node in model.graph
        }

    for module in ("running", "planning"):
        monkeypatch.setattr(f"onnxopt.pruning.{module}.measure_speed", measure)
    monkeypatch.setattr("onnxopt.pruning.latency_table._node_times", times)
    monkeypatch.setattr("onnxopt.pruning.running._SCALE_SECONDS", 0.0)


def _parameters(model: ir.Model) -> int:
    return sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value)


def _data(model: ir.Model, count: int = 16) -> list[dict[str, Any]]:
    return [random_feeds(model, {"N": 8, "batch": 8}, seed=index) for index in range(count)]


@pytest.mark.parametrize("style", ["pre", "post"])
def test_silent_blocks_go_first(style: str) -> None:
    model = encoder(2, silent=("out0", "down1"), style=style)
    report = onnxopt.prune(model, calibration=_data(model), sparsity=0.5, kinds=["block"]).report
    assert {entry.name: entry.removed for entry in report.blocks} == {
        "a0_q": True, "f0_u": False, "a1_q": False, "f1_u": True
    }  # fmt: skip
    assert all(entry.cost < 1e-3 for entry in report.blocks if entry.removed)
    assert all(entry.cost > 0.1 for entry in report.blocks if not entry.removed)
    assert report.error is not None
    assert report.error.rms < 1e-3
    assert report.reached == 0.5
    lost = {g.name: g.kept for g in report.groups if g.reason == "gone with its block"}
    assert lost == {"value0": 0, "up1": 0}


def test_a_layer_goes_as_a_whole() -> None:
    model = encoder(3, silent=("out1", "down1"))
    result = onnxopt.prune(model, calibration=_data(model), target_flops=0.7, kinds=["layer"])
    assert [(e.name, e.removed) for e in result.report.blocks] == [
        ("a0_q", False), ("a1_q", True), ("a2_q", False)
    ]  # fmt: skip
    assert "Identity" not in op_types(result.model)
    feeds = random_feeds(model, {"N": 3})
    np.testing.assert_allclose(run(result.model, feeds)[0], run(model, feeds)[0], atol=1e-5)


def test_what_follows_makes_up_for_a_block() -> None:
    model = resnet()
    data = _data(model, 32)
    report = onnxopt.prune(model, calibration=data, target_flops=0.8, kinds=["block"]).report
    assert sum(entry.removed for entry in report.blocks) == 1
    assert report.unrepaired is not None
    assert report.error is not None
    assert report.error.rms < 0.6 * report.unrepaired.rms
    assert [repair for repair in report.repairs if not repair.reason]


@pytest.mark.parametrize("goal", ["target_flops", "target_size", "target_latency"])
def test_blocks_and_units_meet_a_target_together(goal: str) -> None:
    model = encoder(3, silent=("down1",))
    result = onnxopt.prune(
        model,
        calibration=_data(model),
        kinds=["block", "neuron", "head"],
        multiple=1,
        **{goal: 0.7},
    )
    report = result.report
    assert report.met
    assert [entry.name for entry in report.blocks if entry.removed] == ["f1_u"]
    assert any(0 < group.kept < group.units for group in report.groups)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_blocks_of_real_models_go(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    model = onnxopt.load(path)
    data = _data(model, 8)
    result = onnxopt.prune(path, calibration=data, target_flops=0.9, kinds=["block"])
    assert any(entry.removed for entry in result.report.blocks)
    assert _parameters(result.model) < 0.9 * _parameters(model)
    before, after = (run(one, data[0])[0] for one in (model, result.model))
    assert before.shape == after.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["block"], "calibration": None}, "give data"),
        ({"kinds": ["block", "layer"]}, "not both"),
        ({"kinds": ["block"], "importance": "taylor"}, "take importance hessian"),
        ({"kinds": ["layer", "neuron"], "importance": "l2"}, "take importance hessian"),
        ({"kinds": ["block", "neuron"], "scope": "global"}, "counts units"),
        ({"kinds": ["block"], "exclude": ["MatMul"]}, "nothing that can be pruned: excluded"),
    ],
)
def test_bad_choices_are_refused(options: dict[str, Any], message: str) -> None:
    model = encoder(1)
    with pytest.raises(InvalidInputError, match=message):
        onnxopt.prune(model, **({"calibration": _data(model, 4), "sparsity": 0.5} | options))


def test_costs_are_measured_with_memory_for_the_largest_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = encoder(1)
    sized = []
    sizes = Probe.sizes

    def spy(self: Probe, names: Any, feeds: Any) -> Any:
        sized.append(feeds["x"].shape[0])
        return sizes(self, names, feeds)

    monkeypatch.setattr(Probe, "sizes", spy)
    monkeypatch.setattr(LinearMap, "matrices", None)  # only shapes are asked for
    infer_model(model)
    data = open_data([random_feeds(model, {"N": rows}) for rows in (1, 5, 2)], model)
    costs = span_costs(
        model, spans(residual_blocks(model), "block"), data, range(3), max_memory=1 << 20
    )
    assert sized == [5]
    assert len(costs) == 2


def test_a_group_without_weights_does_not_go_with_a_block() -> None:
    group = PruningGroup("free", "channel", np.arange(4), (), "", "")
    (entry,) = group_entries([group], Allocation([], "layer", unit_gain, 8), 0, {})
    assert (entry.kept, entry.reason) == (4, "")


def test_excluded_blocks_stay_and_the_report_says_so() -> None:
    model = encoder(2, silent=("out0", "down1"))
    report = onnxopt.prune(
        model, calibration=_data(model), sparsity=0.4, kinds=["block"], exclude=["a0_*"]
    ).report
    assert [e.name for e in report.blocks if e.removed] == ["f1_u"]
    text = report.to_text()
    assert "1 of 4 blocks are gone:" in text
    assert "has to stay: a0_q: excluded" in text

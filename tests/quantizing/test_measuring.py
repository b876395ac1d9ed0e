"""How much of the data a budget of seconds allows for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError
from onnxopt.quantizing import measuring
from onnxopt.quantizing.measuring import affordable, open_reference
from onnxopt.quantizing.options import QuantizeOptions
from onnxopt.runtime.library import CannotRunError

COUNT = 40


def doubling() -> ir.Model:
    return ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    )


def running_for(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of a model takes so long."""

    def reference(model: ir.Model, sets: Any, providers: Any) -> Any:
        return SimpleNamespace(sets=tuple(sets), seconds=seconds * len(sets))

    monkeypatch.setattr(measuring, "Reference", reference)


def data_of(model: ir.Model) -> Any:
    return open_data([{"x": np.full(2, i, np.float32)} for i in range(COUNT)], model)


def test_long_runs_leave_fewer_samples_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, notes = doubling(), list[str]()
    data, options = data_of(model), QuantizeOptions(budget=80.0)
    running_for(0.01, monkeypatch)
    assert list(affordable(model, data, range(COUNT), options, notes)) == list(range(COUNT))
    assert not notes
    running_for(0.25, monkeypatch)
    assert list(affordable(model, data, range(COUNT), options, notes)) == list(range(0, 40, 2))
    assert notes == ["runs take long: calibrated on 20 of 40 samples (--budget)"]
    running_for(60.0, monkeypatch)
    assert len(affordable(model, data, range(COUNT), options, notes)) == 8


def test_errors_are_measured_on_what_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, notes = doubling(), list[str]()
    data = data_of(model)
    running_for(1.0, monkeypatch)
    found = open_reference(model, data, range(30, COUNT), QuantizeOptions(budget=180.0), notes)
    assert [one.feeds["x"][0] for one in found.sets] == list(range(30, 37))
    assert notes == ["runs take long: the error was measured on 7 samples"]


def test_where_few_are_kept_apart_others_are_measured_on_too() -> None:
    model, notes = doubling(), list[str]()
    data = data_of(model)
    found = open_reference(model, data, range(37, COUNT), QuantizeOptions(), notes)
    assert len(found.sets) == 16
    judged = QuantizeOptions(judged=True)
    assert len(open_reference(model, data, range(37, COUNT), judged, notes).sets) == 3
    assert not notes


@pytest.mark.parametrize(("opset", "advised"), [(6, True), (17, False)])
def test_a_model_too_old_to_run_is_told_to_raise_its_opset(
    opset: int, advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = doubling()
    data = data_of(model)
    model.opset_imports[""] = opset

    def fails(*_: Any) -> None:
        raise CannotRunError("no kernel for Add")

    monkeypatch.setattr(measuring, "Reference", fails)
    with pytest.raises(InvalidInputError, match="the float model does not run on the data") as one:
        open_reference(model, data, range(37, COUNT), QuantizeOptions(), [])
    assert ("raise its opset 6 first" in str(one.value)) == advised

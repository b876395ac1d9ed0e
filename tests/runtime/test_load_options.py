"""Session options that go with a model: found by measurement, saved in it, used by `bench`."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model

import onnxopt
from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime import load_rewrites
from onnxopt.runtime.bundles.tuning import Attempt, Tuning, tune_session
from onnxopt.runtime.guard import guarded_run
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.saved_options import KEY, save_options, saved_options
from onnxopt.runtime.session import Feeds
from onnxopt.runtime.session_settings import SessionSettings

FOUND = SessionSettings(optimization="extended", disabled_optimizers=("SkipLayerNormFusion",))
GAIN = Ratio(1.2, 1.15, 1.25, 9)


def norm_model() -> ir.Model:
    """A residual and a LayerNormalization, which ONNX Runtime makes one operator on load."""
    return parse_model(
        "g (float[N,4,8] x, float[N,4,8] r) => (float[N,4,8] y) "
        "<float[8] s = {1, 2, 1, 1, 1, 1, 1, 1}> "
        "{ a = Add(x, r) y = LayerNormalization<axis = -1>(a, s) }"
    )


def test_only_optimizers_that_change_the_model_are_tried() -> None:
    found = list(load_rewrites.load_changes(norm_model(), SessionSettings()))
    assert found[0] == {"disabled_optimizers": ("SkipLayerNormFusion",)}
    assert [change for change in found if "disabled_optimizers" in change] == found[:1]


def test_disabled_optimizers_add_up() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        return GAIN

    names = ("One", "Two")
    found = tune_session(
        Path("model.onnx"), {}, SessionSettings(), timer=timer,
        changes=[{"disabled_optimizers": (name,)} for name in names],
    )  # fmt: skip
    assert found.settings.disabled_optimizers == names


def test_nothing_is_tried_when_the_time_is_over() -> None:
    found = tune_session(Path("model.onnx"), {}, SessionSettings(), limit=0.0)
    assert not found.attempts
    assert found.notes == ("not all session options were tried: the time for it is over",)


def test_options_come_back_as_they_were_saved(tmp_path: Path) -> None:
    model = norm_model()
    assert saved_options(model) is None
    save_options(model, FOUND, GAIN.to_dict())
    onnxopt.save(model, tmp_path / "model.onnx")
    assert saved_options(onnxopt.load(tmp_path / "model.onnx")) == FOUND


def test_options_of_another_graph_count_for_nothing() -> None:
    model = norm_model()
    save_options(model, FOUND, {})
    model.graph.append(ir.node("Relu", [model.graph.outputs[0]]))
    assert saved_options(model) is None


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_metadata_that_is_no_json_is_refused_in_one_line(text: str) -> None:
    model = norm_model()
    model.metadata_props[KEY] = text
    with pytest.raises(InvalidInputError, match=f"metadata {KEY}: no JSON"):
        saved_options(model)


def test_only_what_is_rewritten_on_load_is_read_from_metadata() -> None:
    model = norm_model()
    save_options(model, FOUND, {})
    data = json.loads(model.metadata_props[KEY]) | {"config": {"a": "b"}, "threads": 1000}
    model.metadata_props[KEY] = json.dumps(data)
    assert saved_options(model) == FOUND


@pytest.mark.parametrize("gain", [GAIN, None])
def test_full_guard_tells_and_saves_what_was_measured(
    gain: Ratio | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(model: ir.Model, feeds: Feeds, base: SessionSettings, limit: float) -> Tuning:
        attempts = (Attempt("optimization=extended", str(GAIN), kept=gain is not None),)
        return Tuning(base if gain is None else FOUND, gain, attempts)

    monkeypatch.setattr(guarded_run, "search_load_options", search)
    path = tmp_path / "model.onnx"
    report = onnxopt.optimize(
        norm_model(), path, guard="full", guard_budget=0.5, target="cpu"
    ).report
    saved = saved_options(onnxopt.load(path))
    assert report.session is not None
    if gain is None:
        assert saved is None
        assert report.session["optimization"] == "all"
        assert "ONNX Runtime's defaults (1 others were not proven faster)" in report.to_text()
        return
    assert saved == FOUND
    assert report.to_dict()["session"]["disabled_optimizers"] == ["SkipLayerNormFusion"]
    told = "session options: level extended, without SkipLayerNormFusion: 1.200x (95 %:"
    assert told in report.to_text()
    result = onnxopt.benchmark(
        path, norm_model(), saved_options=True, seconds=0.01, sessions=1, load=False
    )
    assert "model.onnx: level extended, without SkipLayerNormFusion" in result.notes[0]
    assert "has no session options of its own" in result.notes[1]


def test_parity_guard_recommends_nothing() -> None:
    assert onnxopt.optimize(norm_model(), target="cpu").report.session is None

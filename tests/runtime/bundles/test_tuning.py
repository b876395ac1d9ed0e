"""tune_session: keeps what is proven faster, and the defaults if nothing is in the end."""

from __future__ import annotations

from pathlib import Path

from onnxopt.runtime.bundles.tuning import tune_session
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.measuring.ratio import Ratio
from onnxopt.runtime.session_settings import SessionSettings, settings_from

_MODEL = Path("model.onnx")


def _ratio(value: float) -> Ratio:
    return Ratio(value, value * 0.97, value * 1.03, 10)


def _cost(settings: SessionSettings) -> float:
    """Milliseconds: without spinning faster, in parallel slower; threads do nothing."""
    return 10.0 - 3.0 * (not settings.spinning) + 2.0 * (settings.execution == "parallel")


def test_changes_are_kept_when_proven_faster() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        return _ratio(_cost(a) / _cost(b))

    found = tune_session(_MODEL, {}, SessionSettings(), timer=timer)
    assert found.settings == SessionSettings(spinning=False)
    assert found.gain is not None
    assert found.gain.median > 1.4
    assert [attempt.change for attempt in found.attempts if attempt.kept] == ["spinning=False"]


def test_defaults_stay_when_the_final_timing_proves_nothing() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        return _ratio(1.0 if sessions > 3 else _cost(a) / _cost(b))

    found = tune_session(_MODEL, {}, SessionSettings(), timer=timer)
    assert found.settings == SessionSettings()
    assert found.gain is None
    assert "the defaults stay" in found.notes[0]


def test_options_of_cuda_are_tried_on_cuda_and_nowhere_else() -> None:
    """Which is all that is known of them here: nothing was measured on CUDA."""

    def cost(settings: SessionSettings) -> float:
        return 10.0 - 2.0 * (settings.provider_options.get("prefer_nhwc") == "1")

    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        return _ratio(cost(a) / cost(b))

    found = tune_session(_MODEL, {}, SessionSettings(provider="cuda"), timer=timer)
    assert found.settings.provider_options == {"prefer_nhwc": "1"}
    tried = " ".join(attempt.change for attempt in found.attempts)
    assert "cudnn_conv_algo_search" in tried
    assert settings_from(found.settings.to_dict(), "record") == found.settings
    on_cpu = tune_session(_MODEL, {}, SessionSettings(), timer=timer)
    assert "provider_options" not in " ".join(attempt.change for attempt in on_cpu.attempts)


def test_options_of_one_provider_add_up() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        return _ratio(1.5 if b.provider_options else 1.0)

    base = SessionSettings(provider="cuda", threads=1)
    found = tune_session(_MODEL, {}, base, timer=timer)
    assert found.settings.provider_options == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "1",
    }


def test_change_is_noted_when_the_model_does_not_open_with_it() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        if b.execution == "parallel":
            raise CannotRunError("no kernel")
        return _ratio(1.0)

    found = tune_session(_MODEL, {}, SessionSettings(threads=1), timer=timer)
    assert found.notes == ("execution=parallel: not tried, no kernel",)
    assert not any("threads" in attempt.change for attempt in found.attempts)

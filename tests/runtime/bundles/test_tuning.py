"""tune_session: keeps what is proven faster, and the defaults if nothing is in the end."""

from __future__ import annotations

from pathlib import Path

from onnxopt.runtime.bundles.tuning import tune_session
from onnxopt.runtime.library import CannotRunError
from onnxopt.runtime.ratio import Ratio
from onnxopt.runtime.session_settings import SessionSettings

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


def test_change_is_noted_when_the_model_does_not_open_with_it() -> None:
    def timer(a: SessionSettings, b: SessionSettings, sessions: int, seconds: float) -> Ratio:
        if b.execution == "parallel":
            raise CannotRunError("no kernel")
        return _ratio(1.0)

    found = tune_session(_MODEL, {}, SessionSettings(threads=1), timer=timer)
    assert found.notes == ("execution=parallel: not tried, no kernel",)
    assert not any("threads" in attempt.change for attempt in found.attempts)

"""SessionSettings: what is saved is what is opened, and nothing else is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers.rewriting import parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime import load_bundle
from onnxopt.runtime.session_settings import SessionSettings, settings_from


def test_settings_survive_when_saved_and_read() -> None:
    settings = SessionSettings(
        optimization="basic",
        disabled_optimizers=("ConstantFolding",),
        threads=2,
        execution="parallel",
        spinning=False,
        arena=False,
        config={"session.set_denormal_as_zero": "1"},
    )
    assert settings_from(settings.to_dict(), "x") == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "threads cannot be 0"),
        ({"threads": True}, "threads cannot be True"),
        ({"provider": "tpu"}, "provider cannot be 'tpu'"),
        ({"optimization": "most"}, "optimization cannot be 'most'"),
        ({"config": {"a": 1}}, "config cannot be"),
        ({"config": {"session.load_model_format": "ORT"}}, "config cannot be"),
        ({"provider_options": {"user_compute_stream": "1"}}, "provider_options cannot be"),
        ({"library": "evil.so"}, "no session option 'library'"),
    ],
)
def test_options_are_refused_when_they_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        settings_from({**SessionSettings().to_dict(), **change}, "bundle.json")


def test_options_reach_the_session_when_it_is_opened(tmp_path: Path) -> None:
    model = parse_model("g (float[2] x) => (float[2] y) { y = Add (x, x) }")
    ir.save(model, tmp_path / "m.onnx")
    settings = SessionSettings(threads=3, execution="parallel", optimization="basic", arena=False)
    session = settings.open(tmp_path / "m.onnx")
    options = session.native.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert not options.enable_cpu_mem_arena
    np.testing.assert_array_equal(session.run({"x": np.ones(2, np.float32)})["y"], [2, 2])


def test_changes_name_what_differs() -> None:
    changed = SessionSettings(threads=1, arena=False)
    assert changed.changes(SessionSettings()) == ["threads=1", "arena=False"]


def test_provider_is_refused_when_there_is_none_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="provider 'tpu'"):
        load_bundle(tmp_path, provider="tpu")

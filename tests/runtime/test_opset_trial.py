"""try_opset: what onnx's converter does to its process is one line here."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from helpers.crashing import crash_conversion, hang_conversion
from helpers.rewriting import parse_model

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime import opset_trial
from onnxopt.runtime.opset_trial import try_opset


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ir.save(parse_model("g (float[2] x) => (float[2] y) { y = Relu (x) }"), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_nothing_happens_when_it_can_be_raised(model: Path) -> None:
    before = model.read_bytes()
    try_opset(model, 21)
    assert model.read_bytes() == before


def test_refusal_arrives_when_it_cannot_be_raised(model: Path) -> None:
    with pytest.raises(InvalidInputError, match="it can only be raised"):
        try_opset(model, 7)


def test_crash_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opset_trial, "_convert", crash_conversion)
    with pytest.raises(InvalidInputError, match=r"version converter crashed \(SIGABRT\)"):
        try_opset(model, 21)


def test_hang_is_stopped(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opset_trial, "_convert", hang_conversion)
    with pytest.raises(InvalidInputError, match=r"took more than 0\.5 s"):
        try_opset(model, 21, seconds=0.5)

"""Hostile models: whatever they are, the command line ends with one clear line or a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.hostile import CASES

from onnxopt.cli.group import cli
from onnxopt.core.errors import OnnxOptError

_LONGEST_LINE = 600


@pytest.mark.parametrize("name", CASES)
def test_one_line_or_a_model(name: str, tmp_path: Path) -> None:
    model = CASES[name](tmp_path / "in")
    before = _files(tmp_path)
    result = CliRunner().invoke(
        cli, ["optimize", str(model), "--guard", "off", "-o", str(tmp_path / "out.onnx"), "-q"]
    )
    error = result.exception
    new = _files(tmp_path) - before
    if error is None:
        assert result.exit_code == 0
        assert new == {"out.onnx"}
        return
    assert isinstance(error, OnnxOptError), repr(error)
    message = str(error)
    assert message.isprintable(), message  # no line breaks, no codes for a terminal
    assert len(message) < _LONGEST_LINE + len(str(tmp_path))
    assert new == set()


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}

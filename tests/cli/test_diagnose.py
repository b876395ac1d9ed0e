"""`onnxopt diagnose`: exit codes, the page, bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers.small_decoder import small_decoder

from onnxopt.cli.group import cli


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and the same with another epsilon."""
    folder = tmp_path_factory.mktemp("diagnose")
    model = small_decoder()
    ir.save(model, folder / "a.onnx")
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-2)
    ir.save(model, folder / "b.onnx")
    return folder / "a.onnx", folder / "b.onnx"


def test_node_and_cause_are_printed_when_models_differ(models: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(cli, ["diagnose", *map(str, models)])
    assert result.exit_code == 3
    assert "1. LayerNormalization 'ln'" in result.stdout
    assert "epsilon is 0.01, not 1e-05" in result.stdout


def test_exit_code_is_zero_when_models_agree(models: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(cli, ["diagnose", str(models[0]), str(models[0])])
    assert result.exit_code == 0
    assert result.stdout.startswith("no difference")


def test_json_is_all_of_stdout_when_asked_for(models: tuple[Path, Path]) -> None:
    data = json.loads(CliRunner().invoke(cli, ["diagnose", *map(str, models), "--json"]).stdout)
    assert data["exit_code"] == 3
    assert data["findings"][0]["nodes"] == ["ln"]


def test_page_is_self_contained_when_written(models: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = CliRunner().invoke(cli, ["diagnose", *map(str, models), "-q", "--html", str(page)])
    assert (result.exit_code, result.output) == (3, "")
    text = page.read_text("utf-8")
    drawing = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert drawing is not None
    svg = xml.dom.minidom.parseString(drawing[0])
    faults = [c for c in svg.getElementsByTagName("circle") if c.getElementsByTagName("title")]
    assert sum(c.getAttribute("class") == "fault" for c in faults) == 1
    assert "epsilon is 0.01" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?:|src=|@import|<script", text)


def test_one_line_says_what_is_wrong_when_interfaces_differ(models: tuple[Path, Path]) -> None:
    other = Path(__file__).resolve().parents[2] / "models" / "digits_cnn.onnx"
    result = subprocess.run(
        [sys.executable, "-m", "onnxopt", "diagnose", str(models[0]), str(other)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "different inputs" in result.stderr

"""`--html`: one page that loads nothing, escapes what models say, and shows the figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from helpers.rewriting import parse_model

from onnxopt.cli.group import cli
from onnxopt.cli.pages.parts import changes, table
from onnxopt.cli.pages.plots import bars, interval
from onnxopt.core.errors import InvalidInputError
from onnxopt.graph.loading import load_model
from onnxopt.graph.precision_regions import precision_regions

_TEXT = """
g (float[batch,64] x) => (float[batch,64] y) {
  a = Identity (x)
  b = MatMul (a, w)
  c = Relu (b)
  y = MatMul (c, v)
}
"""

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(64, 64)).astype(np.float32) for name in "wv"}
    path = tmp_path / "<b>net.onnx"
    ir.save(parse_model(_TEXT, weights), path)
    return path


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    return invoke


class _Tags(HTMLParser):
    """Every tag is closed in order, and nothing is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe", "b0"), tag
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "line", "circle", "path")


def _page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert "&lt;b&gt;net" in text
    assert "<b>net" not in text
    return text


def test_optimization_is_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    run("optimize", model, "--html", tmp_path / "page.html")
    text = _page(tmp_path / "page.html")
    assert "remove-identities" in text
    assert "<td>nodes</td><td>4</td><td>3</td><td>-25.0%</td>" in text
    assert str(tmp_path) not in text
    assert "float32: 3 nodes" in text
    assert "passed" in text


def test_comparison_is_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    run("compare", model, model, "--html", tmp_path / "page.html")
    assert "at parity" in _page(tmp_path / "page.html")


def test_weights_are_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("quantize", model, "--mode", "weight-only", "--bits", 8, "--html", page)
    text = _page(page)
    assert "Error of the weights" in text
    assert "int8 weights: 2 nodes" in text


def test_quantization_is_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("quantize", model, "--mode", "dynamic", "--force", "--budget", 2, "--html", page)
    text = _page(page)
    assert "Forms that were tried" in text
    assert "Before: optimize" in text


def test_pruning_is_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("prune", model, "--sparsity", 0.5, "--html", page)
    text = _page(page)
    assert "64 to 32" in text
    assert "left: 50.00%" in text
    assert "<td>parameters</td><td>8,192</td><td>4,096</td><td>-50.0%</td>" in text


def test_bundle_has_a_page(model: Path, run: Run, tmp_path: Path) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "dist"
    run("optimize", model, "--bundle", folder, "--bundle-seconds", 0, "--html", page)
    assert "float32: 3 nodes" in _page(page)


def test_page_in_a_missing_folder_is_refused(model: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(model), str(model), "--html", str(tmp_path / "gone" / "page.html")]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InvalidInputError)
    assert "cannot write the page" in str(result.exception)


def test_regions_follow_the_precision(tmp_path: Path) -> None:
    text = """
    g (float[2,4] x) => (float[2,4] y)
    <float s = {0.1}, uint8 z = {0}, int8 wz = {0},
     int8[4,4] w = {1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,4}> {
      q = QuantizeLinear (x, s, z)
      d = DequantizeLinear (q, s, z)
      e = DequantizeLinear (w, s, wz)
      m = MatMul (d, e)
      r = QuantizeLinear (m, s, z)
      f = DequantizeLinear (r, s, z)
      y = Softmax (f)
    }"""
    ir.save(parse_model(text, {}), tmp_path / "m.onnx")
    regions = precision_regions(load_model(tmp_path / "m.onnx").graph)
    assert [(region.precision, region.nodes) for region in regions] == [("int8", 6), ("float32", 1)]


def test_bars_are_as_long_as_their_values() -> None:
    text = bars([("a", 2.0, "2"), ("b", 1.0, "1"), ("c", 0.0, "0")], "x")
    assert re.findall(r'<i style="width: ([\d.]+)%"', text) == ["100.00", "50.00", "0.00"]


def test_interval_shows_its_ends() -> None:
    text = interval({"median": 1.5, "low": 1.4, "high": 1.6}, "speed")
    assert "1.50 (95 %: 1.40 to 1.60)" in text


def test_changes_have_no_share_of_nothing() -> None:
    assert "<td>0</td><td>3</td><td>-</td>" in changes([("nodes", 0, 3)])


def test_table_escapes_and_aligns() -> None:
    text = table(("n", "t"), [(1, "<script>")])
    assert "&lt;script&gt;" in text
    assert '<td class="n">1</td>' in text

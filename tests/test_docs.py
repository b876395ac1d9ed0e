"""The Python examples of the documentation run, each in a folder with a model."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_RUN = re.compile(r"<!-- run -->\n```python\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
_PAGES = sorted((ROOT / "docs").rglob("*.md"))
_EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in _PAGES
    for number, code in enumerate(_RUN.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("code", _EXAMPLES)
def test_example_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "models" / "digits_cnn.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    # Dataclasses look their module up.
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(code, "example", "exec"), vars(module))


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_links_lead_to_pages(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in _PAGES:
        assert page.relative_to(ROOT / "docs").as_posix() in navigation

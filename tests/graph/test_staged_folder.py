"""Folders that appear whole: what somebody else puts there meanwhile stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxopt.core.errors import SaveError
from onnxopt.graph.staged_folder import staged_folder


def _make_while_somebody_else_does(target: Path) -> None:
    with staged_folder(target, marker="mark", overwrite=False) as stage:
        (stage / "mark").write_text("ours")
        target.mkdir()
        (target / "mark").write_text("theirs")


def test_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "dist"
    with pytest.raises(SaveError, match="is not empty"):
        _make_while_somebody_else_does(target)
    assert (target / "mark").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


def test_link_stays_when_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for text in ("first", "second"):
        with staged_folder(tmp_path / "link", marker="mark", overwrite=True) as stage:
            (stage / "mark").write_text(text)
    assert (tmp_path / "real" / "mark").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}
    assert (tmp_path / "link").is_symlink()

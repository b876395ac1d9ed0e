"""Folders that appear whole: what somebody else puts there meanwhile stays."""

from __future__ import annotations

import subprocess
import sys
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


_KILLED = """
import os, signal, sys
import subprocess
import sys
from pathlib import Path
from onnxopt.graph import staged_folder
target, moment = Path(sys.argv[1]), sys.argv[2]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
rename = Path.rename
def rename_or_die(self, other):
    if moment == "between" and self.name.endswith(".tmp"):
        die()
    return rename(self, other)
Path.rename = rename_or_die
if moment == "after":
    def rmtree(*_, **__):
        die()
    staged_folder.shutil.rmtree = rmtree
with staged_folder.staged_folder(target, marker="mark", overwrite=True) as stage:
    (stage / "mark").write_text("second")
    if moment == "inside":
        die()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with the process")
@pytest.mark.parametrize(
    ("moment", "left"), [("inside", "first"), ("between", None), ("after", "second")]
)
def test_next_run_settles_what_a_killed_one_left(
    tmp_path: Path, moment: str, left: str | None
) -> None:
    target = tmp_path / "dist"
    with staged_folder(target, marker="mark", overwrite=False) as stage:
        (stage / "mark").write_text("first")
    command = [sys.executable, "-c", _KILLED, str(target), moment]
    assert subprocess.run(command, check=False).returncode == -9
    assert ((target / "mark").read_text() if target.exists() else None) == left
    assert any(path.name.startswith(".onnxopt-") for path in tmp_path.iterdir())
    if left is None:  # neither was lost: the former one is back before anything else is done
        with pytest.raises(SaveError, match="is not empty"):
            staged_folder(target, marker="mark", overwrite=False).__enter__()
        assert (target / "mark").read_text() == "first"
    with staged_folder(target, marker="mark", overwrite=True) as stage:
        (stage / "mark").write_text("third")
    assert (target / "mark").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["dist"]


def test_folders_of_others_and_of_running_processes_stay(tmp_path: Path) -> None:
    foreign = [".onnxopt-notes.tmp", ".onnxopt-0123456789abcdef-0123456789abcdef.old", "x.tmp"]
    for name in foreign:
        (tmp_path / name).mkdir()
    with staged_folder(tmp_path / "a", marker="mark", overwrite=False) as running:
        (running / "mark").write_text("a")
        with staged_folder(tmp_path / "b", marker="mark", overwrite=False) as stage:
            (stage / "mark").write_text("b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", *foreign}

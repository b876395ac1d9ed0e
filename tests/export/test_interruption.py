"""Exports that are cut off: signals and full disks. One line, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import onnxopt
from onnxopt.core.errors import SaveError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and limits")

NET = """
import torch
def make(): return torch.nn.Linear(600, 600), torch.rand(2, 600)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:make"


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"net.py", "__pycache__"}


def test_full_disk_is_one_line_that_names_the_folder(source: str, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(SaveError, match=r"cannot save .*out/model\.onnx: .*another") as error:
            onnxopt.export(source, tmp_path / "out", exporter="torchscript")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert not left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "place",
    ["export.functions.find_function", "export.weights.tie_weights", "graph.saving.staging"],
)
def test_signal_ends_the_export(
    source: str, tmp_path: Path, number: signal.Signals, place: str
) -> None:
    """In the user's code, in an exporter, and while the model is written."""
    module, _, name = place.rpartition(".")
    script = f"""
        import importlib, os, signal, sys
        signal.signal({int(number)}, signal.SIG_DFL)
        module = importlib.import_module("onnxopt.{module}")
        original = module.{name}
        def interrupted(*given):
            os.kill(os.getpid(), {int(number)})
            return original(*given)
        module.{name} = interrupted
        from onnxopt.cli import main
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script), "export", source]
    out = ["-o", str(tmp_path / "out"), "--exporter", "torchscript"]
    done = subprocess.run([*command, *out], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert not left(tmp_path)

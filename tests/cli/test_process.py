"""The command as a process: paths that are odd, output that fails, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers.broken_models import make_model

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's devices or signals")
COMMAND = (sys.executable, "-c", "from onnxopt.cli import main; main()")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(make_model().SerializeToString())
    return path


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("path", [".", "", "/", ".."])
@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_folder_is_one_line(tmp_path: Path, command: str, path: str) -> None:
    done = run(command, path, cwd=tmp_path)
    assert done.returncode == 2
    assert "is a folder" in done.stderr
    assert done.stderr.count("\n") == 1


@linux
@pytest.mark.parametrize("arguments", [["optimize"], ["optimize", "--json"], ["inspect"]])
def test_output_that_fails_is_one_line_and_a_closed_pipe_none(
    model: Path, arguments: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*arguments, model, stdout=full)
    assert done.returncode == 4
    assert done.stderr == "onnxopt: error: cannot write the output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*arguments, model, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@linux
def test_deleted_working_directory_does_no_harm(model: Path) -> None:
    folder = model.parent / "gone"
    folder.mkdir()
    script = f"import os; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r}); "
    command = [sys.executable, "-c", f"{script}{COMMAND[-1]}", "optimize", str(model), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert model.with_name("model.opt.onnx").exists()


@linux
def test_name_that_is_not_utf_8_is_checked_and_shown(model: Path) -> None:
    odd = model.rename(os.fsdecode(os.fsencode(model.parent / "b") + b"\xff.onnx"))
    done = run("optimize", odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parity passed" in done.stdout
    assert "b\\udcff.opt.onnx" in done.stdout


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", ["core.pipeline.Pipeline.call", "runtime.child.Child.call"])
def test_interrupt_ends_without_a_traceback_or_a_file(
    model: Path, number: signal.Signals, place: str
) -> None:
    """In the passes, and in the verification, over the input itself."""
    target, owner, name = place.rsplit(".", 2)
    content = model.read_bytes()
    script = f"""
        import importlib, os, signal
        signal.signal({int(number)}, signal.SIG_DFL)
        module = importlib.import_module("onnxopt.{target}")
        setattr(module.{owner}, {name!r}, lambda *_, **__: os.kill(os.getpid(), {int(number)}))
        from onnxopt.cli import main
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script), "optimize", str(model)]
    done = subprocess.run(
        [*command, "-o", str(model), "--external-data"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (128 + number, "")
    assert model.read_bytes() == content
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_missing_runtime_is_said_before_the_passes(model: Path) -> None:
    script = """
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name == "onnxruntime":
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Missing())
        from onnxopt.cli import main
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script), "optimize", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--guard off" in done.stderr
    assert done.stderr.count("\n") == 1
    done = subprocess.run([*command, "--guard", "off", "-q"], capture_output=True, check=False)
    assert done.returncode == 0


def test_array_file_serves_the_only_input(model: Path) -> None:
    np.save(model.with_name("x.npy"), np.ones(2000, np.float32))
    done = run("optimize", model, "--inputs", model.with_name("x.npy"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "on 1 input sets" in done.stdout


@linux
@pytest.mark.parametrize("number", [signal.SIGFPE, signal.SIGSEGV, signal.SIGKILL])
def test_crash_of_native_code_is_one_line(model: Path, number: signal.Signals) -> None:
    content = model.read_bytes()
    script = f"""
        import os
        from onnxopt.core.pipeline import Pipeline
        Pipeline.call = lambda *_, **__: os.kill(os.getpid(), {int(number)})
        from onnxopt.cli import main
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script), "optimize", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    killed = number == signal.SIGKILL
    assert ("lack of memory" if killed else f"crashed ({number.name})") in done.stderr
    assert done.stderr.count("\n") == 1
    assert "the output was not written, or is whole" in done.stderr
    assert model.read_bytes() == content
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@linux
def test_killed_command_leaves_no_process_behind(model: Path) -> None:
    script = """
        import time
        from onnxopt.core.pipeline import Pipeline
        def call(*_, **__):
            print("here", flush=True)
            time.sleep(60)
        Pipeline.call = call
        from onnxopt.cli import main
        main()
        """
    command = [sys.executable, "-c", textwrap.dedent(script), "optimize", str(model), "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.kill()
        assert process.stdout.read() == ""  # both ends of the pipe are closed: nobody is left

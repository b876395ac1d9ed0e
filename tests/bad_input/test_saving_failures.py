from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.broken_models import external_model, make_model, refusal, weights

from onnxopt.core.errors import InvalidInputError, SaveError
from onnxopt.graph import saving
from onnxopt.graph.loading import load_model
from onnxopt.graph.saving import save_model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in.onnx"
    path.write_bytes(make_model().SerializeToString())
    return load_model(path)


@pytest.fixture
def folder(tmp_path):
    """A folder with an older model, which every failure must leave as it is."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(b"old")
    (folder / "m.onnx.data").write_bytes(b"old data")
    return folder


def _assert_unchanged(folder):
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == {
        "m.onnx": b"old",
        "m.onnx.data": b"old data",
    }


def test_missing_folder_is_refused(tmp_path, model):
    refusal(lambda: save_model(model, tmp_path / "no" / "m.onnx"), SaveError, "does not exist")


def test_folder_as_target_is_refused(tmp_path, model):
    refusal(lambda: save_model(model, tmp_path), SaveError, "is a folder")


def test_file_in_place_of_the_folder_is_refused(tmp_path, model):
    (tmp_path / "file").write_bytes(b"")
    refusal(lambda: save_model(model, tmp_path / "file" / "m.onnx"), SaveError)


def test_device_as_target_is_refused(model):
    refusal(lambda: save_model(model, "/dev/null"), SaveError, "not a regular file")


def test_text_suffix_is_refused(tmp_path, model):
    refusal(lambda: save_model(model, tmp_path / "m.json"), SaveError, "binary")


def test_name_that_is_too_long_is_refused(tmp_path, model):
    refusal(lambda: save_model(model, tmp_path / ("n" * 300)), SaveError, "too long")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.onnx"]


def test_existing_file_is_refused_if_asked(folder, model):
    refusal(lambda: save_model(model, folder / "m.onnx", overwrite=False), SaveError, "exists")
    _assert_unchanged(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(folder, model):
    folder.chmod(0o555)
    try:
        refusal(lambda: save_model(model, folder / "m.onnx"), SaveError, "permission")
    finally:
        folder.chmod(0o755)
    _assert_unchanged(folder)


def test_one_file_over_the_limit_is_refused(folder, model, monkeypatch):
    monkeypatch.setattr(saving, "_LARGEST_FILE", 4000)
    refusal(
        lambda: save_model(model, folder / "m.onnx", external_data=False), SaveError, "external"
    )
    _assert_unchanged(folder)


def test_graph_alone_over_the_limit_is_refused(folder, model, monkeypatch):
    monkeypatch.setattr(saving, "_LARGEST_FILE", 100)
    refusal(lambda: save_model(model, folder / "m.onnx"), SaveError, "graph alone")
    _assert_unchanged(folder)


@pytest.mark.parametrize("name", ["data.bin", "hard", "soft"])
def test_own_data_file_as_target_is_refused(tmp_path, name):
    path = external_model(tmp_path)
    content = (tmp_path / "data.bin").read_bytes()
    (tmp_path / "hard").hardlink_to(tmp_path / "data.bin")
    (tmp_path / "soft").symlink_to("data.bin")
    for model in (load_model(path), ir.load(path)):
        refusal(lambda m=model: save_model(m, tmp_path / name), SaveError, "external data of the")
        assert (tmp_path / name).read_bytes() == content
    save_model(load_model(path), path)


def test_own_data_file_of_a_constant_is_refused_as_target(tmp_path):
    path = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    node = onnx.helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[0])
    proto.graph.node.insert(0, node)
    del proto.graph.initializer[0]
    path.write_bytes(proto.SerializeToString())
    model = load_model(path)
    refusal(lambda: save_model(model, tmp_path / "data.bin"), SaveError, "external data of the")


@pytest.mark.parametrize("external_data", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, SaveError])
def test_failed_verification_leaves_nothing(folder, model, external_data, error):
    def verify(path):
        assert load_model(path).graph.initializers["w"].const_value.nbytes == 8000
        assert (folder / "m.onnx").read_bytes() == b"old"
        raise error

    with pytest.raises(error):
        save_model(model, folder / "m.onnx", external_data=external_data, verify=verify)
    _assert_unchanged(folder)


def test_what_is_no_model_is_refused(tmp_path):
    for thing, words in (("m.onnx", "onnxopt.load"), (b"", "bytes"), (5, "int"), (None, "None")):
        refusal(lambda t=thing: save_model(t, tmp_path / "o.onnx"), InvalidInputError, words)


class _Stops(ir.Tensor):
    """A tensor that raises when its data is read."""

    def __init__(self, error):
        super().__init__(weights(5000))
        self._error = error

    __slots__ = ("_error",)

    def numpy(self):
        raise self._error


@pytest.mark.parametrize("external_data", [False, True])
def test_full_disk_leaves_nothing(folder, model, external_data):
    model.graph.register_initializer(
        ir.Value(name="z", const_value=_Stops(OSError(28, "No space left on device")))
    )
    refusal(
        lambda: save_model(model, folder / "m.onnx", external_data=external_data),
        SaveError,
        "free some space",
    )
    _assert_unchanged(folder)


@pytest.mark.parametrize("external_data", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
def test_interrupt_leaves_nothing(folder, model, external_data, error):
    model.graph.register_initializer(ir.Value(name="z", const_value=_Stops(error())))
    with pytest.raises(error):
        save_model(model, folder / "m.onnx", external_data=external_data)
    _assert_unchanged(folder)


def test_interrupt_after_the_data_is_in_place_removes_it_again(folder, model, monkeypatch):
    def stop(self, path):
        assert len(list(folder.glob("m.onnx.*.data"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(saving.Staging, "replace_target", stop)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, folder / "m.onnx", external_data=True)
    _assert_unchanged(folder)


def test_tensor_with_the_wrong_amount_of_data_is_refused(folder, model):
    class Short(ir.Tensor):
        __slots__ = ()

        def numpy(self):
            return super().numpy()[:-1]

    model.graph.register_initializer(ir.Value(name="z", const_value=Short(weights(5000))))
    refusal(lambda: save_model(model, folder / "m.onnx"), SaveError, "20000 bytes")
    _assert_unchanged(folder)


def test_initializer_without_a_value_is_refused(folder, model):
    model.graph.initializers["w"].const_value = None
    refusal(lambda: save_model(model, folder / "m.onnx"), SaveError, "'w' has no value")
    _assert_unchanged(folder)


def test_external_data_that_disappeared_is_refused(folder, tmp_path):
    path = external_model(tmp_path / "ext")
    model = ir.load(path)
    (tmp_path / "ext" / "data.bin").unlink()
    refusal(lambda: save_model(model, folder / "m.onnx"), SaveError)
    _assert_unchanged(folder)


def _in_a_process(folder, tmp_path, setup):
    big = np.zeros(1 << 20, np.float32)
    (tmp_path / "big.onnx").write_bytes(make_model(initializers={"w": big}).SerializeToString())
    script = f"""
        import os, resource, signal, sys
        from onnxopt.core.errors import OnnxOptError
        from onnxopt.graph.loading import load_model
        from onnxopt.graph.saving import save_model
        model = load_model({str(tmp_path / "big.onnx")!r})
        {setup}
        try:
            save_model(model, {str(folder / "m.onnx")!r}, external_data=True)
        except OnnxOptError as error:
            sys.exit(f"refused: {{error}}")
        """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_file_size_limit_of_the_system_is_one_line_and_leaves_nothing(folder, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    done = _in_a_process(folder, tmp_path, limit)
    assert done.stderr.startswith("refused: cannot save")
    assert done.stderr.count("\n") == 1
    _assert_unchanged(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_termination_while_writing_leaves_nothing(folder, tmp_path):
    """As in the command line, which turns SIGTERM into an exception."""
    setup = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); fsync = os.fsync; "
        "os.fsync = lambda fd: (os.kill(os.getpid(), signal.SIGTERM), fsync(fd))"
    )
    done = _in_a_process(folder, tmp_path, setup)
    assert done.returncode == 143 == 128 + signal.SIGTERM
    _assert_unchanged(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_what_a_kill_leaves_is_removed_by_the_next_save(folder, tmp_path, model):
    done = _in_a_process(folder, tmp_path, "os.fsync = lambda fd: os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    left = list(folder.glob(".onnxopt-*.tmp"))
    assert left
    assert (folder / "m.onnx").read_bytes() == b"old"
    foreign = folder / ".onnxopt-of-mine.tmp"
    foreign.write_bytes(b"")
    save_model(model, folder / "m.onnx")
    assert not any(path.exists() for path in left)
    assert foreign.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_two_saves_into_one_folder_leave_each_other_alone(folder, model):
    def save_another(path):
        save_model(model, folder / "other.onnx")
        assert path.exists()

    save_model(model, folder / "m.onnx", external_data=True, verify=save_another)
    assert load_model(folder / "m.onnx").graph.initializers

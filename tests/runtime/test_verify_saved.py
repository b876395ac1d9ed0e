import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxopt.runtime.session as sessions
from onnxopt.core.errors import SaveError
from onnxopt.runtime.inputs.plan import InputSet
from onnxopt.runtime.parity.verify_saved import verify_saved
from onnxopt.runtime.session import open_session

SETS = [InputSet({"x": np.ones((2, 64), np.float32)}, "ones")]


def save(path: Path, location: str | None = "model.onnx.data") -> Path:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]>
        g (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"""
    )
    weight = np.ones((64, 48), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    if location is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    onnx.save(model, path)


@pytest.mark.parametrize("location", [None, "model.onnx.data"])
def test_a_good_file_passes_and_the_working_directory_stays(tmp_path, location):
    before = Path.cwd()
    path = save(tmp_path / "model.onnx", location)
    assert verify_saved(path, path, SETS).status == "passed"
    assert Path.cwd() == before


def test_the_file_is_opened_from_another_working_directory_and_the_original_is_not(
    tmp_path, monkeypatch
):
    save(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    opened = []
    real = sessions.load_runtime().InferenceSession

    def spy(source, *arguments, **options):
        opened.append((source, Path.cwd()))
        return real(source, *arguments, **options)

    monkeypatch.setattr(sessions.load_runtime(), "InferenceSession", spy)
    assert verify_saved("model.onnx", Path("model.onnx"), SETS).status == "passed"
    assert opened[0] == ("model.onnx", tmp_path)
    assert opened[1] == (str(tmp_path / "model.onnx"), Path(tmp_path.anchor))


def test_weights_are_not_read_to_find_external_data(tmp_path, monkeypatch):
    path = save(tmp_path / "model.onnx", None)
    monkeypatch.setattr(onnx, "load", lambda *_, **__: pytest.fail("the whole file was parsed"))
    assert verify_saved(path, path, SETS).status == "passed"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a deleted working directory")
def test_a_deleted_working_directory_does_no_harm(tmp_path, monkeypatch):
    path = save(tmp_path / "model.onnx")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert verify_saved(path, path, SETS).status == "passed"


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_path_that_is_not_utf_8_is_opened(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"\xff"))
    folder.mkdir()
    for file in (save(tmp_path / "model.onnx"), tmp_path / "model.onnx.data"):
        file.rename(folder / file.name)  # the onnx package cannot write there
    path = folder / "model.onnx"
    assert verify_saved(path, path, SETS).status == "passed"
    assert open_session(path).run(SETS[0].feeds)["y"].shape == (2, 48)


def test_a_relative_path_is_resolved_before_leaving(tmp_path, monkeypatch):
    save(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    assert verify_saved("model.onnx", tmp_path / "model.onnx", SETS).status == "passed"
    assert Path.cwd() == tmp_path


def test_missing_data_is_caught_even_if_the_working_directory_has_it(tmp_path, monkeypatch):
    path = save(tmp_path / "model.onnx")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "model.onnx.data").rename(other / "model.onnx.data")
    monkeypatch.chdir(other)
    with pytest.raises(SaveError, match=r"'w' is missing: model\.onnx\.data"):
        verify_saved(path, path, SETS)
    assert Path.cwd() == other


def test_data_that_ends_early_is_caught(tmp_path):
    path = save(tmp_path / "model.onnx")
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(SaveError, match="ends before the data of 'w'"):
        verify_saved(path, path, SETS)


@pytest.mark.parametrize("outside", ["absolute", "../model.onnx.data"])
def test_data_outside_the_folder_is_caught_although_it_exists_here(tmp_path, outside):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = save(folder / "model.onnx")
    (folder / "model.onnx.data").rename(tmp_path / "model.onnx.data")
    relocate(path, str(tmp_path / "model.onnx.data") if outside == "absolute" else outside)
    with pytest.raises(SaveError, match="outside its folder"):
        verify_saved(path, path, SETS)


def test_a_model_that_does_not_run_is_caught(tmp_path):
    path = save(tmp_path / "model.onnx", None)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Missing"
    onnx.save(model, tmp_path / "broken.onnx")
    result = verify_saved(tmp_path / "broken.onnx", path, SETS)
    assert result.status == "failed"
    assert "does not run" in result.reasons[0]

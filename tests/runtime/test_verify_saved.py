from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxopt.core.errors import SaveError
from onnxopt.runtime.verify_saved import verify_saved

FEEDS = {"x": np.ones((2, 64), np.float32)}


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
    verify_saved(save(tmp_path / "model.onnx", location), FEEDS)
    assert Path.cwd() == before


def test_a_relative_path_is_resolved_before_leaving(tmp_path, monkeypatch):
    save(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    verify_saved("model.onnx", FEEDS)
    assert Path.cwd() == tmp_path


def test_missing_data_is_caught_even_if_the_working_directory_has_it(tmp_path, monkeypatch):
    path = save(tmp_path / "model.onnx")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "model.onnx.data").rename(other / "model.onnx.data")
    monkeypatch.chdir(other)
    with pytest.raises(SaveError, match=r"'w' is missing: model\.onnx\.data"):
        verify_saved(path, FEEDS)
    assert Path.cwd() == other


def test_data_that_ends_early_is_caught(tmp_path):
    path = save(tmp_path / "model.onnx")
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(SaveError, match="ends before the data of 'w'"):
        verify_saved(path, FEEDS)


@pytest.mark.parametrize("outside", ["absolute", "../model.onnx.data"])
def test_data_outside_the_folder_is_caught_although_it_exists_here(tmp_path, outside):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = save(folder / "model.onnx")
    (folder / "model.onnx.data").rename(tmp_path / "model.onnx.data")
    relocate(path, str(tmp_path / "model.onnx.data") if outside == "absolute" else outside)
    with pytest.raises(SaveError, match="outside its folder"):
        verify_saved(path, FEEDS)


def test_a_model_that_does_not_run_is_caught(tmp_path):
    path = save(tmp_path / "model.onnx", None)
    with pytest.raises(SaveError, match="the saved model does not run"):
        verify_saved(path, {"x": np.ones((2, 63), np.float32)})

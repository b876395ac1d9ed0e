from __future__ import annotations

import os

import onnx
import pytest
from helpers.broken_models import external_model, refusal
from onnx import helper

from onnxopt.core.errors import InvalidModelError
from onnxopt.graph.loading import load_model


def _refused(path, match):
    return refusal(lambda: load_model(path), InvalidModelError, match)


def test_intact_external_data_loads(tmp_path):
    model = load_model(external_model(tmp_path))
    assert model.graph.initializers["w"].const_value.numpy().shape == (2000,)


def test_missing_file_is_named(tmp_path):
    path = external_model(tmp_path)
    (tmp_path / "data.bin").unlink()
    message = _refused(path, "does not exist")
    assert "'w'" in message
    assert str(tmp_path / "data.bin") in message


@pytest.mark.parametrize(
    "location",
    [
        "/etc/hostname",
        "../data.bin",
        "sub/../../data.bin",
        "..",
        ".",
        "a//b",
        "C:\\x",
        "\\\\h\\x",
        "a\0b",
    ],
)
def test_location_outside_the_folder_is_refused(tmp_path, location):
    (tmp_path / "data.bin").write_bytes(b"\0" * 8000)
    _refused(external_model(tmp_path / "model", location=location), "location|symbolic|exist")


def test_empty_location_is_refused(tmp_path):
    _refused(external_model(tmp_path, location=""), "names no file")


def test_model_as_its_own_data_is_refused(tmp_path):
    _refused(external_model(tmp_path, location="model.onnx"), "names the model file itself")


def test_folder_as_data_is_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    _refused(external_model(tmp_path, location="sub"), "not a regular file")


def test_pipe_as_data_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _refused(external_model(tmp_path, location="pipe"), "not a regular file")


def test_linked_file_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 8000)
    path = external_model(tmp_path / "model", location="link")
    (tmp_path / "model" / "link").symlink_to(secret)
    _refused(path, "symbolic link")


def test_linked_folder_is_refused(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "data.bin").write_bytes(b"\0" * 8000)
    path = external_model(tmp_path / "model", location="link/data.bin")
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    _refused(path, "symbolic link")


def test_link_inside_the_folder_is_refused_unless_the_model_is_one(tmp_path):
    path = external_model(tmp_path, location="link")
    (tmp_path / "link").symlink_to("data.bin")
    _refused(path, "symbolic link")


def test_hugging_face_cache_loads(tmp_path):
    """There model and data are both links into one folder of blobs."""
    blobs = tmp_path / "blobs"
    path = external_model(blobs)
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    path.rename(blobs / "1111")
    (blobs / "data.bin").rename(blobs / "2222")
    (snapshot / "model.onnx").symlink_to("../../blobs/1111")
    (snapshot / "data.bin").symlink_to("../../blobs/2222")
    tensor = load_model(snapshot / "model.onnx").graph.initializers["w"].const_value
    assert tensor.tobytes() == (blobs / "2222").read_bytes()


def test_linked_model_does_not_open_other_folders(tmp_path):
    path = external_model(tmp_path / "blobs")
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 8000)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.onnx").symlink_to(path)
    (snapshot / "data.bin").symlink_to(secret)
    _refused(snapshot / "model.onnx", "symbolic link")


@pytest.mark.parametrize("offset", ["-1", "1e3", "0x10", " 4", "9" * 30, "four"])
def test_offset_that_is_no_number_is_refused(tmp_path, offset):
    _refused(external_model(tmp_path, offset=offset), "offset")


@pytest.mark.parametrize("offset", ["4", "9000000000", "9223372036854775807"])
def test_data_beyond_the_end_is_refused(tmp_path, offset):
    _refused(external_model(tmp_path, offset=offset), "incomplete")


@pytest.mark.parametrize("length", ["7999", "8001", "0", "-8000", "99999999999999"])
def test_length_that_disagrees_with_the_shape_is_refused(tmp_path, length):
    _refused(external_model(tmp_path, length=length), "length")


def test_short_file_is_refused(tmp_path):
    path = external_model(tmp_path, length=None)
    (tmp_path / "data.bin").write_bytes(b"\0" * 7999)
    _refused(path, "has 7999; the file is incomplete")


def test_enormous_declared_size_is_refused(tmp_path):
    path = external_model(tmp_path, length=None)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [10**9, 10**9]
    path.write_bytes(model.SerializeToString())
    _refused(path, "impossibly many|incomplete")


def test_external_data_of_constants_and_subgraphs_is_checked_and_found(tmp_path):
    outer = external_model(tmp_path)
    model = onnx.load(outer, load_external_data=False)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(model.graph.initializer[0])
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    inner = helper.make_graph(
        [helper.make_node("Add", ["k", "w2"], ["s"])],
        "branch",
        [],
        [helper.make_tensor_value_info("s", 1, None)],
    )
    inner.initializer.add().CopyFrom(tensor)
    inner.initializer[0].name = "w2"
    flag = helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [])
    model.graph.input.append(flag)
    branch = helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner)
    model.graph.node.insert(0, constant)
    model.graph.node.append(branch)
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", 1, None))
    outer.write_bytes(model.SerializeToString())
    loaded = load_model(outer)
    data = (tmp_path / "data.bin").read_bytes()
    assert loaded.graph[0].attributes["value"].as_tensor().tobytes() == data
    for graph in loaded.graph.subgraphs():
        assert graph.initializers["w2"].const_value.tobytes() == data
    (tmp_path / "data.bin").write_bytes(b"short")
    _refused(outer, "incomplete")


def test_location_that_is_not_utf8_is_refused(tmp_path):
    path = external_model(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"data.bin", b"dat\xff.bin"))
    refusal(lambda: load_model(path), InvalidModelError, "not valid UTF-8")

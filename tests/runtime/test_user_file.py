"""Files of the user's own data: what is read, and one line for what is not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers.broken_models import refusal

from onnxopt.core.errors import InvalidInputError
from onnxopt.runtime.inputs.user_data import read_user_data


def _inputs(*names):
    types = {"type": ir.TensorType(ir.DataType.FLOAT), "shape": ir.Shape(["n", 2])}
    return {name: ir.Value(name=name, **types) for name in names}


def test_npy_file_is_the_only_input(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    (data,) = read_user_data(tmp_path / "x.npy", _inputs("x"))
    assert data.arrays["x"].shape == (3, 2)


def test_npy_file_is_refused_where_several_inputs_are_needed(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    message = refusal(
        lambda: read_user_data(tmp_path / "x.npy", _inputs("x", "z")), InvalidInputError, "2 inputs"
    )
    assert "numpy.savez" in message


@pytest.mark.parametrize("content", [b"", b"some text\n", b"x" * 4096])
def test_text_with_the_suffix_is_refused_without_talk_of_pickles(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    message = refusal(
        lambda: read_user_data(tmp_path / "data.npz", _inputs("x")), InvalidInputError, "not a .npz"
    )
    assert "pickle" not in message


def test_missing_file_folder_and_damage_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    refusal(lambda: read_user_data(path, _inputs("x")), InvalidInputError, "does not exist")
    refusal(lambda: read_user_data(tmp_path, _inputs("x")), InvalidInputError, "no .npz or .npy")
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 2)))
    content = bytearray(path.read_bytes())
    content[60:300] = bytes(240)
    path.write_bytes(content)
    refusal(lambda: read_user_data(path, _inputs("x")), InvalidInputError, "cannot read")


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.array([{}], object))
    refusal(lambda: read_user_data(tmp_path / "data.npz", _inputs("x")), InvalidInputError)

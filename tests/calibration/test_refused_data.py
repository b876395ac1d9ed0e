"""Calibration data that does not fit: one line that names the file and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibration.data import open_data
from onnxopt.core.errors import InvalidInputError

MODEL = ir.from_onnx_text(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) { y = Neg(x) }'
)
GOOD = np.ones((2, 4), np.float32)
NOT_A_NUMBER = np.full((2, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": GOOD}, r"data.npz: no input is named 'z'; the inputs are x"),
        ({"x": GOOD[:, :3]}, r"data.npz: input 'x' has the shape .* \[2, 3\]"),
        ({"x": GOOD.astype(int)}, r"data.npz: input 'x' is FLOAT, the data for it int64"),
        ({"x": NOT_A_NUMBER}, r"data.npz: the data for input 'x' holds 8 NaN"),
        ({"x": GOOD[:0]}, r"data.npz: the arrays have no rows"),
        ({}, r"data.npz: holds no arrays"),
    ],
)
def test_the_file_is_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InvalidInputError, match=message):
        open_data(tmp_path / "data.npz", MODEL)


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GOOD)
    np.savez(tmp_path / "b.npz", x=GOOD[:, :3])
    with pytest.raises(InvalidInputError, match=r"b.npz: input 'x' has the shape"):
        open_data(tmp_path, MODEL)


def test_the_sample_of_a_function_is_named() -> None:
    def data() -> Any:
        yield {"x": GOOD}
        yield {"y": GOOD}

    with pytest.raises(InvalidInputError, match="data #1: no input is named 'y'"):
        open_data(data, MODEL)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tokenizer": "folder"}, "--tokenizer is for text"),
        ({"preprocess": "size=32"}, "--preprocess is for images"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "arrays", "function"])
def test_options_that_would_do_nothing_are_refused(
    option: dict[str, str], message: str, kind: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "data.npz", x=GOOD)
    sets = [{"x": GOOD}]
    data = {"file": tmp_path / "data.npz", "arrays": sets, "function": lambda: iter(sets)}[kind]
    with pytest.raises(InvalidInputError, match=message):
        open_data(data, MODEL, **option)

"""Saved torch.export programs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError

torch = pytest.importorskip("torch")


def test_program_is_exported_with_its_dynamic_dimensions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()),
        (torch.rand(2, 3, 4),),
        dynamic_shapes=({0: torch.export.Dim("b", max=16), 1: torch.export.Dim("s", max=9)},),
    )
    torch.export.save(program, tmp_path / "net.pt2")
    result = onnxopt.export(tmp_path / "net.pt2", tmp_path / "out")
    (shape,) = result.files[0].inputs.values()
    assert shape == ["batch", "input_1", 4]
    assert result.files[0].exporter == "dynamo"
    reasons = {one["exporter"]: one["rejected"] for one in result.files[0].candidates}
    assert "traced again" in reasons["torchscript"]


def test_program_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("net/data/constants/custom_obj_0", b"\x80\x02.")
    with pytest.raises(InvalidInputError, match="pickled objects"):
        onnxopt.export(tmp_path / "net.pt2", tmp_path / "out")
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    with pytest.raises(InvalidInputError, match="is no torch"):
        onnxopt.export(tmp_path / "bad.pt2", tmp_path / "out")

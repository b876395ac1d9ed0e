"""Optimizing the folder of an export: complete, recorded, atomic. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.broken_models import make_model

import onnxopt
from onnxopt.cli.group import cli
from onnxopt.core.errors import InvalidInputError, OnnxOptError, SaveError
from onnxopt.export.optimizing_folder import optimize_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "net-onnx"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "1_Pooling" / "config.json").write_text("{}")
    (made / "config.json").write_text("{}")
    for name in ("encoder_model.onnx", "decoder_model.onnx"):
        (made / name).write_bytes(make_model().SerializeToString())
    files = [{"file": name} for name in ("encoder_model.onnx", "decoder_model.onnx")]
    (made / "export.json").write_text(json.dumps({"files": files, "opset": 18}))
    return made


def test_every_model_is_optimized_and_all_else_is_copied(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reports = optimize_folder(folder, tmp_path / "out")
    assert list(reports) == ["encoder_model.onnx", "decoder_model.onnx"]
    names = {path.relative_to(folder) for path in before}
    assert {
        p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()
    } == names
    assert {path: path.read_bytes() for path in before} == before
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["opset"] == 18
    assert record["files"][0]["optimized"]["parity"]["status"] == "passed"
    onnxopt.load(tmp_path / "out" / "encoder_model.onnx")


def test_command_takes_the_folder_and_names_the_result(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["optimize", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)) == {"encoder_model.onnx", "decoder_model.onnx"}
    assert (folder.parent / "net-onnx.opt" / "decoder_model.onnx").is_file()


def test_folder_may_be_its_own_output(folder: Path) -> None:
    optimize_folder(folder, folder)
    assert "optimized" in json.loads((folder / "export.json").read_text())["files"][1]
    assert {path.name for path in folder.parent.iterdir()} == {"net-onnx"}


def test_nothing_is_written_when_one_model_fails(folder: Path, tmp_path: Path) -> None:
    (folder / "decoder_model.onnx").write_bytes(b"<broken")
    with pytest.raises(OnnxOptError, match="decoder_model"):
        optimize_folder(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"net-onnx"}
    (folder / "decoder_model.onnx").unlink()
    with pytest.raises(InvalidInputError, match=r"decoder_model\.onnx is missing"):
        optimize_folder(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"files": 1}', '{"files": []}', '{"files": [{"file": "../m.onnx"}]}']
)
def test_damaged_record_is_one_line(folder: Path, tmp_path: Path, record: str) -> None:
    (folder / "export.json").write_text(record)
    with pytest.raises(InvalidInputError, match=r"export\.json is damaged") as error:
        optimize_folder(folder, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_folders_that_are_no_export_or_no_target_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InvalidInputError, match="no export"):
        optimize_folder(tmp_path / "full", tmp_path / "out")
    with pytest.raises(SaveError, match="not empty"):
        optimize_folder(folder, tmp_path / "full")

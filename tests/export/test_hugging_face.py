"""Hugging Face folders that are damaged: one line each, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError
from onnxopt.export import dynamo
from onnxopt.export.configurations import check_configuration

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_transformers import save  # noqa: E402


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("RoBERTa", tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def change(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def fill(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut("config.json"), r"config\.json cannot be read"),
        (fill("config.json", b"\xff\xfe"), r"config\.json cannot be read"),
        (fill("config.json", b"[1]"), "is no object"),
        (fill("config.json", b"[" * 100_000), r"config\.json cannot be read"),
        (lambda folder: change(folder, num_hidden_layers=1 << 40), "num_hidden_layers"),
        (lambda folder: change(folder, text_config={"depths": [2, 1 << 40]}), "depths"),
        (lambda folder: change(folder, architectures=[5]), "no list of names"),
        (lambda folder: change(folder, architectures=None), "--task, one of"),
        (lambda folder: change(folder, model_type="zzz"), "read its configuration"),
        (
            lambda folder: change(
                folder, model_type="zzz", auto_map={"AutoConfig": "evil.Configuration"}
            ),
            "code of its own, which is not run",
        ),
        (lambda folder: change(folder, hidden_size=48), "size mismatch|mismatched"),
        (cut("model.safetensors"), "be loaded for text-classification"),
        (fill("model.safetensors", b"\xff" * 99), "be loaded for text-classification"),
        (as_pickle, "pickle can run code"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \.safetensors file"),
    ],
)
def test_damaged_folder_is_one_line(
    folder: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(folder)
    with pytest.raises(InvalidInputError, match=reason) as error:
        onnxopt.export(folder, folder.parent / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_weights_that_the_source_does_not_have_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {name: one for name, one in weights.items() if name != "classifier.dense.weight"}
    save_file(kept, path, {"format": "pt"})
    result = onnxopt.export(folder, folder.parent / "out", exporter="torchscript")
    (note,) = result.notes
    assert "no weights for classifier.dense.weight: they are random" in note


def test_model_that_fails_on_every_input_is_one_line(tmp_path: Path) -> None:
    source = save("RoBERTa", tmp_path / "model", max_position_embeddings=2)
    with pytest.raises(InvalidInputError, match="cannot be run for text-classification") as error:
        onnxopt.export(source, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_boxes_of_tokens_are_an_input(tmp_path: Path) -> None:
    source = save("LayoutLM", tmp_path / "model")
    result = onnxopt.export(source, tmp_path / "out", exporter="torchscript")
    assert result.files[0].inputs["bbox"] == ["batch", "sequence", 4]


def test_configuration_that_is_right_passes(good: Path) -> None:
    check_configuration("good", good)


def test_output_may_be_a_folder_inside_the_source(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    onnxopt.export(folder, folder / "onnx", exporter="torchscript")
    assert (folder / "onnx" / "model.onnx").is_file()
    shutil.rmtree(folder / "onnx")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_dynamo_takes_eager_attention_where_fused_attention_cannot_be_decomposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for T5 under transformers 5."""
    source = save("ViT", tmp_path / "model")
    tried = []

    def capture(part: Any) -> Any:
        tried.append(part.module.model.config._attn_implementation)
        if tried[-1] == "sdpa":
            raise ValueError("Cannot view a tensor with shape [2, 3] and strides (1, 2)")
        return original(part)

    original = dynamo._capture
    monkeypatch.setattr(dynamo, "_capture", capture)
    result = onnxopt.export(source, tmp_path / "out", exporter="dynamo")
    assert tried == ["sdpa", "eager"]
    assert result.files[0].largest_error < 1e-5

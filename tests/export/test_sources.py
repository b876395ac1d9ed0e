"""What can be exported, and the one line that says why something cannot. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxopt
from onnxopt.core.errors import InvalidInputError, MissingDependencyError, SaveError
from onnxopt.export.requirements import require_packages
from onnxopt.export.sources import kind_of
from onnxopt.export.tasks import find_task


def test_kind_follows_from_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "net.pt2").write_bytes(b"")
    assert kind_of(str(tmp_path)) == "folder"
    assert kind_of(str(tmp_path / "net.pt2")) == "program"
    assert kind_of("package.module:make") == "function"
    assert kind_of("./file.py:make") == "function"
    assert kind_of("organization/model-v1.5") == "hub"
    assert kind_of("gpt2") == "hub"


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "pytorch_model.bin", "net.ckpt", "net.PKL"])
def test_pickle_is_refused_with_the_way_that_works(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(InvalidInputError, match=r"pickle.*safetensors.*weights_only.*function"):
        kind_of(str(path))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("model.onnx", "onnxopt optimize"),
        ("model.safetensors", "folder it is in"),
        ("net.py", "net.py:function"),
        ("net.txt", "nothing that can be exported"),
    ],
)
def test_other_files_are_refused_with_advice(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=advice):
        kind_of(str(tmp_path / name))


@pytest.mark.parametrize("source", ["./no", "/no/such", "no.pt2", "a/b/c", "", "a b", "x\0y"])
def test_missing_source_is_one_line(source: str) -> None:
    with pytest.raises(InvalidInputError) as error:
        kind_of(source)
    assert "\n" not in str(error.value)


def test_folder_without_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"config\.json"):
        kind_of(str(tmp_path))


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("CLIPModel", "zero-shot-image-classification"),
        ("BertModel", "feature-extraction"),
        ("DetrForObjectDetection", "object-detection"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
    ],
)
def test_task_follows_from_the_architecture(architecture: str, task: str) -> None:
    assert find_task(None, [architecture], "m").name == task


def test_task_that_nothing_tells_is_asked_for() -> None:
    with pytest.raises(InvalidInputError, match=r"--task, one of .*fill-mask"):
        find_task(None, [], "m")
    with pytest.raises(InvalidInputError, match=r"BertForPreTraining.*--task"):
        find_task(None, ["BertForPreTraining"], "m")
    with pytest.raises(InvalidInputError, match="no task 'fly'"):
        find_task("fly", ["BertModel"], "m")
    assert find_task("text-generation-with-past", [], "m").name == "text-generation"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"torch .*onnxopt\[export\]"):
        require_packages("function", "auto")


def test_folder_that_holds_something_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(SaveError, match="not empty"):
            onnxopt.export(tmp_path / "m", tmp_path / "out", overwrite=overwrite)
    with pytest.raises(SaveError, match="does not exist"):
        onnxopt.export(tmp_path / "m", tmp_path / "no" / "out")
    with pytest.raises(SaveError, match="is a file"):
        onnxopt.export(tmp_path / "m", tmp_path / "out" / "mine.txt")
    with pytest.raises(InvalidInputError, match="'auto' or one of"):
        onnxopt.export(tmp_path / "m", tmp_path / "o", exporter="magic")


def test_package_is_called_as_the_function_that_it_is_named_after() -> None:
    import onnxopt.export.sources  # binds the package to the name

    with pytest.raises(InvalidInputError, match="does not exist"):
        onnxopt.export("./no", "o")


@pytest.mark.parametrize("kind", ["function", "program"])
def test_optimum_is_refused_when_the_source_is_not_of_hugging_face(kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"this is a {kind}"):
        require_packages(kind, "optimum")

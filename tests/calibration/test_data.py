"""Data in every form that users have it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from onnxopt.calibration.data import open_data
from onnxopt.calibration.images import parse_preprocessing
from onnxopt.core.errors import InvalidInputError


def image_model(batch: str = "1", side: str = "8") -> ir.Model:
    shape = f"float[{batch}, 3, {side}, {side}]"
    return ir.from_onnx_text(f"""<ir_version: 8, opset_import: ["" : 17]>
g ({shape} image) => ({shape} y) {{ y = Relu(image) }}""")


def token_model() -> ir.Model:
    return ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
g (int64[N, S] input_ids, int64[N, S] attention_mask) => (int64[N, S] y)
{ y = Add(input_ids, attention_mask) }""")


def sample(n: int = 1) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(n).random((n, 3, 8, 8), np.float32)}


def fed(data: Any, model: ir.Model, **options: Any) -> list[dict[str, Any]]:
    return [dict(one.feeds) for one in open_data(data, model, **options)]


def test_a_long_array_is_cut_into_batches_that_the_model_takes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **sample(20))
    sets = fed(tmp_path / "x.npz", image_model())
    assert [one["image"].shape[0] for one in sets] == [1] * 20
    np.testing.assert_array_equal(sets[3]["image"], sample(20)["image"][3:4])
    assert [one["image"].shape[0] for one in fed(sample(20), image_model("N"))] == [8, 8, 4]


def test_folders_functions_and_iterables_give_the_same(tmp_path: Path) -> None:
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", **sample())
    expected = [sample()] * 3
    for data in (tmp_path, lambda: iter(expected), iter(expected), expected):
        for one, other in zip(fed(data, image_model()), expected, strict=True):
            np.testing.assert_array_equal(one["image"], other["image"])


def test_images_are_resized_cropped_and_normalized(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0], pixels[:, :6, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (one,) = fed(tmp_path, image_model(), preprocess="resize=8,mean=0.5,std=0.5")
    assert one["image"].shape == (1, 3, 8, 8)
    assert (one["image"][0, 0] == 1).all()
    assert (one["image"][0, 1:] == -1).all()  # the blue edge is cropped away
    (squeezed,) = fed(tmp_path, image_model(), preprocess="channels=bgr,scale=1")
    assert squeezed["image"][0, 0, 0, 0] > 200
    assert squeezed["image"][0, 0, 0, -1] == 0


def test_images_go_through_a_function_of_the_users(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (one,) = fed(tmp_path, image_model(), preprocess=lambda path: sample()["image"])
    np.testing.assert_array_equal(one["image"], sample()["image"])


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    "lines", [["a b b", "b"], [json.dumps({"text": t}) for t in ("a b b", "b")]]
)
def test_text_is_tokenized(tokenizer: Path, lines: list[str]) -> None:
    path = tokenizer / ("t.jsonl" if "{" in lines[0] else "t.txt")
    path.write_text("\n".join(lines) + "\n\n")
    first, second = fed(path, token_model(), tokenizer=tokenizer)
    assert first["input_ids"].tolist() == [[1, 2, 2]]
    assert second["attention_mask"].tolist() == [[1]]


def test_few_samples_are_noted_and_limits_spread() -> None:
    assert "only 3" in open_data([sample()] * 3, image_model()).notes[0]
    assert not open_data([sample()] * 20, image_model()).notes
    limited = open_data(
        [{"image": np.full((1, 3, 8, 8), i, np.float32)} for i in range(10)], image_model(), limit=2
    )
    assert [one.feeds["image"].flat[0] for one in limited] == [0, 5]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_no_sample_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInputError, match="at least one sample"):
        open_data([sample()] * 5, image_model(), limit=limit)


def test_measuring_and_calibrating_sets_do_not_overlap() -> None:
    calibrating, measuring = open_data([sample()] * 20, image_model()).split(16)
    assert (len(calibrating), len(measuring)) == (15, 5)
    assert not set(calibrating) & set(measuring)
    assert open_data([sample()] * 2, image_model()).split(16) == (range(2), range(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"other": np.ones(3, np.float32)}, "no input is named 'other'"),
        ({"image": np.ones((1, 3, 9, 9), np.float32)}, "shape"),
        ({"image": np.array(["a"])}, "image"),
        ({"image": np.full((1, 3, 8, 8), np.nan, np.float32)}, "NaN"),
        ([], "no samples"),
        ("nowhere.npz", "no such file"),
        (3, "calibration data is"),
    ],
)
def test_bad_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        open_data(data, image_model())


def test_empty_folders_and_broken_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="empty"):
        open_data(tmp_path, image_model())
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(InvalidInputError, match=r"a\.jpg"):
        open_data(tmp_path, image_model())
    with pytest.raises(InvalidInputError, match="size="):
        open_data(tmp_path, image_model(side="S"))


def test_text_without_a_tokenizer_or_text_is_refused(tokenizer: Path) -> None:
    path = tokenizer / "t.txt"
    path.write_text("a\n")
    for options, model, message in (
        ({}, token_model(), "--tokenizer"),
        ({"tokenizer": tokenizer}, image_model(), "input_ids"),
        ({"tokenizer": tokenizer / "no"}, token_model(), "tokenizer.json"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            open_data(path, model, **options)
    path.write_text("\n")
    with pytest.raises(InvalidInputError, match="no text"):
        open_data(path, token_model(), tokenizer=tokenizer)
    (tokenizer / "t.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(InvalidInputError, match="line 1"):
        open_data(tokenizer / "t.jsonl", token_model(), tokenizer=tokenizer)


@pytest.mark.parametrize("text", ["size=0", "nothing=1", "mean=a", "channels=cmyk", "layout=x"])
def test_bad_preprocessing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--preprocess"):
        parse_preprocessing(text)


@pytest.mark.parametrize("option", ["preprocess", "tokenizer"])
def test_options_for_data_need_data(option: str) -> None:
    with pytest.raises(InvalidInputError, match=f"--{option} is for --calibration"):
        open_data(None, image_model(), **{option: "x"})  # type: ignore[arg-type]


def test_assumed_preprocessing_of_images_is_told(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    (assumed, *_) = open_data(tmp_path, image_model()).notes
    assert "give --preprocess" in assumed
    notes = open_data(tmp_path, image_model(), preprocess="scale=1").notes
    assert not any("--preprocess" in note for note in notes)
